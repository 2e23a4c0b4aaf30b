"""What asks for a probe where there is none, and a probe without questions."""

import pytest

from megatron_coreward.config.loading import load_config
from megatron_coreward.preflight.method import check_method
from megatron_coreward.preflight.monitor import check_monitor

RATED = ["checkpoint.keep_best=1", "checkpoint.keep_best_by=probe", "data.source=synthetic"]


def check(*overrides: str) -> None:
    config = load_config([], ["model.path=m", *overrides])
    check_monitor(config)
    check_method(config)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["monitor.on_alarm=stop"], ["monitor.on_alarm is stop", "monitor.every is 0", "to warn"]),
        (["checkpoint.keep_best_by=probe"], ["keep_best_by is probe", "monitor.every is 0", "to agreement"]),
        (["monitor.every=5"], ["monitor.every is 5", "Set monitor.original to a file"]),
        (["monitor.rephrased=r.jsonl"], ["monitor.rephrased is 'r.jsonl'", "monitor.original is empty"]),
        (
            [*RATED, "monitor.every=4", "checkpoint.every=10"],
            ["keep_best_by is probe", "are probed", "monitor.every is 4 and checkpoint.every 10"],
        ),
    ],
)
def test_options_that_do_not_go_together(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        check(*overrides)
    assert all(part in str(error.value) for part in parts), error.value
    assert "\n" not in str(error.value), "one line"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["monitor.every=5", "data.source=synthetic", "monitor.on_alarm=stop"],
        ["monitor.every=5", "monitor.original=o.jsonl", "monitor.rephrased=r.jsonl"],
        [*RATED, "monitor.every=5", "checkpoint.every=10", "reward.method=majority_voting"],
    ],
)
def test_what_goes_together(overrides: list[str]) -> None:
    check(*overrides)
