"""Steps as run.profile_steps gives them."""

import pytest

from megatron_coreward.utils.step_ranges import step_ranges


@pytest.mark.parametrize(
    ("text", "steps"),
    [("", []), ("3", [3]), ("2,10-12", [2, 10, 11, 12]), (" 2, 4-4 ", [2, 4])],
)
def test_numbers_and_ranges(text: str, steps: list[int]) -> None:
    assert [step for steps in step_ranges("key", text) for step in steps] == steps


@pytest.mark.parametrize("text", ["0", "-1", "3-", "5-4", "1,,2", "[1, 2]", "last", "1.5", "1:3"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^key is '.*', but must be steps from 1 on .* 2,10-12") as caught:
        step_ranges("key", text)
    assert repr(text) in str(caught.value)


def test_a_long_range_costs_nothing() -> None:
    assert 10**12 in step_ranges("key", "1-1000000000000000")[0]
