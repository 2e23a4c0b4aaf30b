"""tools/doctor.py on two real ranks makes all its checks and trains one step."""

import json

from tests.support.programs import launch


def test_doctor_on_this_machine() -> None:
    result = launch(2, "tools/doctor.py", "--json", "--timeout", "280")
    start = result.stdout.index("[\n")
    found = {
        finding["name"]: finding
        for finding in json.loads(result.stdout[start : result.stdout.rindex("]") + 1])
    }
    assert not [finding for finding in found.values() if finding["status"] == "failed"]
    assert "2 ranks, gloo" in found["all-reduce"]["seen"] and found["one training step"]["status"] == "ok"
    assert result.returncode == 0
