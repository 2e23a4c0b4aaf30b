"""Tables and figures of a stage from results/STAGE: STAGE.md, STAGE.png, and claims_short.png for the README.

python examples/arithmetic_arms/summarize_arms.py pilot
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from arms import CLAIMS
from figure import draw, draw_short
from results import read_results
from rules import Result
from tables import all_tables

from megatron_coreward.utils.failures import print_error

HERE = Path(__file__).resolve().parent


def write_summary(results: Sequence[Result], output: Path, stage: str) -> Path:
    """Writes STAGE.md and the figures to `output`; returns the page's path.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError(f"there are no results of the {stage} yet: run_arms.py makes them")
    page = output / f"{stage}.md"
    page.write_text("\n".join([*all_tables(results, stage), "", f"![Curves and points]({stage}.png)"]) + "\n")
    draw(results).savefig(page.with_suffix(".png"), dpi=110)
    if stage == CLAIMS:
        draw_short(results).savefig(output / f"{stage}_short.png", dpi=110)
    return page


def main(stages: Sequence[str]) -> int:
    try:
        for stage in stages:
            write_summary(read_results(HERE / "results" / stage), HERE, stage)
    except ValueError as error:
        print_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["pilot"]))
