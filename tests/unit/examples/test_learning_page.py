"""docs/evidence/learning.md repeats tables of a page that the experiment writes: the same figures."""

from tests.support.paths import ROOT

LEARNING = (ROOT / "docs/evidence/learning.md").read_text()
CLAIMS = (ROOT / "examples/arithmetic_arms/claims.md").read_text()
KEPT = {  # the columns of the first table after the seeds, and those of the claims that they are of
    "greedy, chosen": "greedy, chosen",
    "greedy, last step": "greedy, last step",
    "plain wording": "greedy, plain",
    "hard wording": "greedy, hard",
    "pass@1": "pass@1",
    "maj@8": "maj@8",
}


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0].strip()


def table(text: str, number: int) -> list[dict[str, str]]:
    """The rows of the table of that number, by the names of its columns."""
    blocks = [block for block in text.split("\n\n") if block.startswith("| ")]
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in blocks[number].splitlines()
    ]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_arms_of_the_claims() -> None:
    shown = table(section(LEARNING, "Voting, other judges, other wordings"), 0)
    written = table(section(CLAIMS, "Test split"), 0)
    assert len(shown) == len(written) == 9, "an arm is missing"
    twice = [row["arm"] for row in written]
    for here, there in zip(shown, written, strict=True):
        rate = f", rate {there['rate']}" if twice.count(there["arm"]) > 1 else ""
        assert here["arm"] == there["arm"] + rate
        assert here["seeds"] == there["seeds"], here["arm"]
        for column, source in KEPT.items():
            figure = there[source] if column.startswith("greedy") else there[source].split(" ")[0]
            assert here[column] == figure, f"{here['arm']}, {column}"


def test_the_differences_of_the_claims() -> None:
    shown = table(section(LEARNING, "Voting, other judges, other wordings"), 1)
    written = table(section(CLAIMS, "Differences"), 0)
    assert shown == written


def test_the_arms_of_smollm2() -> None:
    example = (ROOT / "examples/smollm2_135m_arithmetic/README.md").read_text()
    written = table(section(example, "The arms"), 0)
    assert table(section(LEARNING, "A real language model"), 1) == written
    assert [row["arm"] for row in written[1:]] == [
        *("Co-Reward", "Majority voting, both wordings", "Ground truth")
    ]
