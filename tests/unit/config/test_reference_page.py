"""docs/config.md agrees with config/schema.py."""

from megatron_coreward.config.keys import all_keys
from megatron_coreward.config.reference_page import render
from tests.support.paths import ROOT


def test_committed_reference_is_current() -> None:
    assert (ROOT / "docs/config.md").read_text() == render(), "run: make reference"


def test_every_key_is_on_the_page_with_what_it_may_be() -> None:
    page = render()
    for key in all_keys().values():
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{key.name}` |")]
        assert all(choice in row for choice in key.choices) and key.limits in row


def test_rows() -> None:
    rows = {line.split("`")[1]: line for line in render().splitlines() if line.startswith("| `")}
    assert rows["run.resume"].startswith("| `run.resume` | bool | `false` | Continue")
    assert rows["data.original"].startswith('| `data.original` | str | `""` | ')
    assert rows["reward.ties"].startswith(
        "| `reward.ties` | first, abstain | `first` | first: the tied class"
    )
    assert rows["optimizer.lr"] == "| `optimizer.lr` | float, above 0 | `3e-06` | Peak learning rate. |"
