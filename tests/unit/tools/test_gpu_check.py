"""The runner of the GPU checks on fakes, the report, and what a bundle holds."""

import json
import os
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tools.gpu_check import bundle, runner, unpack
from tools.gpu_check.__main__ import NO_GPU, main
from tools.gpu_check.runner import FAILED, IMPOSSIBLE, PASSED, Outcome, run_all
from tools.gpu_check.table import CHECKS, Check

FAKES = "tests.unit.tools.gpu_check_fakes"
OURS = ("megatron_coreward", "tests", "tools", "benchmarks")


def fake(function: str, **fields: object) -> Check:
    return replace(Check(function, f"It {function}", f"{FAKES}:{function}", 10.0, modules=()), **fields)


MACHINE, PASSES = fake("cpu_machine"), fake("passes")


def outcomes(checks: list[Check], folder: Path, budget_s: float = 300.0) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in run_all(checks, budget_s, folder)}


def test_a_check_that_fails_says_why_and_stops_no_other(tmp_path: Path) -> None:
    seen = outcomes([MACHINE, fake("raises"), fake("crashes"), PASSES], tmp_path)
    assert [outcome.status for outcome in seen.values()] == [PASSED, FAILED, FAILED, PASSED]
    assert seen["raises"].reason == "exit code 1"
    assert seen["raises"].log_end.endswith("AssertionError: gradients differ by 0.3, at most 0.1 is allowed")
    assert seen["crashes"].reason == "killed by SIGSEGV"
    assert seen["passes"].figures == {"answer": 42.0, "rank": "none"}
    assert not list((tmp_path / "work").iterdir()), "folders of checks are removed"


def test_a_hanging_check_ends_at_its_limit_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "GRACE_S", 0.5)
    outcome = runner.run(fake("hangs"), 4.0, tmp_path, gpus=0)
    assert outcome.status == FAILED and outcome.reason == "not done within its 4 s"
    assert outcome.seconds < 10
    assert "in hangs" in outcome.log_end, "the stack tells where"
    number = int((tmp_path / "child").read_text())
    state = Path(f"/proc/{number}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_budget_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is expected of the possible ones; what is left over goes to all that follow."""
    limits: list[float] = []

    def record(check: Check, limit_s: float, output: Path, gpus: int) -> Outcome:
        limits.append(limit_s)
        return Outcome(check.name, "", PASSED, figures={"GPUs": 0, "has missing": 0})

    monkeypatch.setattr(runner, "run", record)
    checks = [MACHINE, fake("a", seconds=30.0), fake("b", modules=("missing",)), fake("c"), fake("d")]
    seen = outcomes(checks, tmp_path, 140.0)
    assert [round(limit) for limit in limits] == [20, 84, 70, 140]
    assert seen["b"].status == IMPOSSIBLE
    seen = outcomes(checks, tmp_path, 20.0)
    assert seen["cpu_machine"].reason == "the budget of 20 s is used up. Repeat it alone: ONLY=cpu_machine"


def test_what_is_not_possible_says_why(tmp_path: Path) -> None:
    needs_gpu = fake("gpu", gpus=1, modules=("missing", "there"))
    seen = outcomes([MACHINE, needs_gpu], tmp_path)
    assert seen["gpu"].reason == "not installed: missing; no GPU"
    seen = outcomes([fake("two_gpus"), fake("three", ranks=3), fake("passes", gpus=2)], tmp_path)
    assert seen["three"].reason == "needs 3 GPUs, torch sees 2"
    assert seen["passes"].status == PASSED


def test_a_machine_that_cannot_be_described_stops_no_check(tmp_path: Path) -> None:
    seen = outcomes([fake("raises"), fake("passes", modules=("missing",))], tmp_path)
    assert [outcome.status for outcome in seen.values()] == [FAILED, PASSED]


def test_ranks_are_started_by_torchrun_and_name_the_first_failure(tmp_path: Path) -> None:
    started = time.monotonic()
    seen = outcomes([MACHINE, fake("second_rank_raises", ranks=2)], tmp_path)
    assert time.monotonic() - started < 50, "the first rank did not have to end by itself"
    assert "AssertionError: the second rank has no gradient" in seen["second_rank_raises"].log_end
    assert outcomes([MACHINE, fake("passes", ranks=2)], tmp_path)["passes"].figures["rank"] == "0"


@pytest.mark.parametrize(
    ("checks", "only", "code"),
    [
        ([fake("two_gpus"), PASSES], [], 0),
        ([fake("two_gpus"), fake("raises"), PASSES], [], 1),
        ([fake("two_gpus"), fake("raises"), PASSES], ["passes"], 0),
        ([MACHINE, PASSES], [], NO_GPU),
        ([fake("raises"), PASSES], [], 1),
    ],
)
def test_exit_codes_and_reports(
    checks: list[Check],
    only: list[str],
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--output", str(tmp_path), "--only", *only], checks) == code
    names = [check.name for check in checks if not only or check.name in (checks[0].name, *only)]
    printed, report = capsys.readouterr().out, (tmp_path / "report.md").read_text()
    data = json.loads((tmp_path / "report.json").read_text())
    assert [check["name"] for check in data["checks"]] == names
    for text in (printed, report):
        headings = [line.partition(":")[0] for line in text.splitlines() if line.startswith("## ")]
        assert sorted(headings) == sorted(["## Summary", *(f"## {name}" for name in names)])
        assert "| answer | 42 |" in text and "passed" in text
        assert ("No GPU: everything ran on the CPU" in text) == (code == NO_GPU)
        assert ("gradients differ by 0.3" in text) == (code == 1)


def test_a_name_that_is_no_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--only", "tp4", "--output", str(tmp_path / "out")])
    assert error.value.code == 2
    assert "there is no check 'tp4'. Checks: machine, float32, bfloat16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_machine_without_loopback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each check would wait for its own processes until its time is over."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(SystemExit) as error:
        main(["--output", str(tmp_path / "out")])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert "does not reach itself at 127.0.0.1 ([Errno 101] Network is unreachable); bring its" in said
    assert not (tmp_path / "out").exists()


def test_the_table() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert CHECKS[0].name == "machine" and not CHECKS[0].modules


def test_a_bundle_has_all_that_the_checks_import(tmp_path: Path) -> None:
    """Imported from the unpacked archive, in a process that knows no other path."""
    bundle.write(tmp_path / "bundle.tar.gz", wheels=tmp_path)
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / "bundle"
    modules = sorted({check.function.split(":")[0] for check in CHECKS})
    program = (
        f"import importlib, sys\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        f"ours = [m for n, m in sys.modules.items() if n.split('.')[0] in {OURS} and m.__file__]\n"
        f"sys.stdout.write(' '.join(m.__file__ for m in ours))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=unpacked, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = done.stdout.split()
    assert len(files) > 50 and all(file.startswith(str(unpacked)) for file in files), files
    assert (unpacked / "run.sh").read_bytes() == (ROOT / bundle.RUN).read_bytes()


def test_a_bundle_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_BYTES", 10**5)
    with pytest.raises(ValueError, match="MB, at most 0 MB are allowed"):
        bundle.write(tmp_path / "bundle.tar.gz", wheels=tmp_path)
    assert not (tmp_path / "bundle.tar.gz").exists()


def test_only_lacking_packages_are_unpacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheels, folder = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    names = {
        "numpy": "numpy-9.0-py3-none-any.whl",  # installed, in another version
        "no_such_a": f"no_such_a-1.0-{unpack.TAG}-{unpack.TAG}-manylinux2014_x86_64.whl",
        "no_such_b": "no_such_b-1.0-cp36-abi3-manylinux2014_x86_64.whl",
    }
    for package, name in names.items():
        with zipfile.ZipFile(wheels / name, "w") as wheel:
            wheel.writestr(f"{package}/__init__.py", "")
    assert unpack.main([str(wheels), str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["no_such_a", "no_such_b"]
    assert capsys.readouterr().out == f"taken from {wheels}: no_such_a, no_such_b\n"
    (wheels / names["no_such_a"]).rename(wheels / "no_such_a-1.0-cp27-cp27m-manylinux2014_x86_64.whl")
    assert unpack.main([str(wheels), str(folder)]) == 2
    assert "no_such_a is not installed, and there is no wheel for cp" in capsys.readouterr().err
