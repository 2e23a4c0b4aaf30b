"""The pages' links and paths exist, their lines are short, and nothing cites a note that readers lack."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DOCS = ROOT / "docs"
FILES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("examples/**/README.md"))]
PAGES = [pytest.param(file, id=str(file.relative_to(ROOT))) for file in FILES]
PACKAGE = "megatron_coreward"
ROOMS = (PACKAGE, "tests", "tools", "examples", "benchmarks")
MAX_LINE, MAX_PAGES = 110, 20
OTHERS_NOTES = re.compile(r"\bnumerics \d|\bmethod \d+\.\d|\bmethod\.md\b|the method's notes|\.\./shared")
"""Notes and folders that are not in the repository."""


QUESTIONS = {
    "my own JSONL, without rephrasings": "own_data.md#without-rephrasings-or-with",
    "rephrase with a small model": "data.md#rephrase",
    "resume": "checkpoints.md#resuming",
    "majority voting": "reward_methods.md#reward-methods",
    "a reward of my own": "reward_methods.md#a-method-of-your-own",
    "MATH-500 of a checkpoint": "evaluation.md#models",
    "a checkpoint to Hugging Face": "conversion.md#what-is-converted",
    "why is the reward 0": "troubleshooting.md#reward-is-0",
    "how many GPUs for 7B": "gpu/planning.md#planning-a-run",
    "which learning rate": "paper_settings.md#another-model-batch-or-method-which-learning-rate",
    "what does figure X mean": "metrics.md#metrics",
    "stop early, the best checkpoint": "checkpoints.md#choosing-a-checkpoint",
    "is my run healthy": "evidence/healthy.md#is-my-run-healthy",
    "Weights & Biases": "metrics.md#weights--biases",
    "two nodes with SLURM": "gpu/launch.md#slurm",
}
"""What newcomers asked -> the heading in docs/ that answers it."""
MAX_README, MAX_README_LINE = 120, 120


def folders_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def links_of(page: Path) -> set[str]:
    """Targets in the repository, as paths from docs/."""
    targets = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    return {os.path.relpath(page.parent / target, DOCS) for target in targets}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_has_a_heading_two_links_from_the_readme(question: str) -> None:
    """README -> the index -> the heading; the title of a page needs no fragment."""
    page, _, fragment = QUESTIONS[question].partition("#")
    headings = [anchor(h) for h in re.findall(r"^#+ (.+)$", (DOCS / page).read_text(), flags=re.MULTILINE)]
    assert fragment in headings
    assert "README.md" in links_of(ROOT / "README.md")
    target = page if fragment == headings[0] else QUESTIONS[question]
    assert target in links_of(DOCS / "README.md"), "not in the index"


def test_every_page_is_in_the_index() -> None:
    indexed = {target.partition("#")[0] for target in links_of(DOCS / "README.md")}
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages - {"README.md"} <= indexed


def test_the_readme_is_read_in_three_minutes() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= MAX_README and len(text.split()) <= 900


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a page outside of code blocks and tables."""
    in_code = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and not line.lstrip().startswith("|"):
            yield number, line


def anchor(heading: str) -> str:
    """The fragment that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            assert fragment in map(anchor, headings), target


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_backticks_exist(page: Path) -> None:
    """`folder/module.py`, from the root or from the package; NAME stands for any name."""
    for path in re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.py)\b", page.read_text()):
        if "NAME" not in path:
            assert any((folder / path).is_file() for folder in (ROOT, ROOT / PACKAGE)), path


@pytest.mark.parametrize("page", PAGES)
def test_tests_named_in_backticks_exist(page: Path) -> None:
    """`tests/.../test_x.py::test_name`, and `::test_name` after it for the same file."""
    path = ""
    for file, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", page.read_text()):
        path = file or path
        if name:
            assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page: Path) -> None:
    """Of docs/. Tables and code blocks may be wide, and so may a line that one link fills."""
    if page.parent not in (ROOT, DOCS, *folders_of(DOCS)) or page.name == "config.md":
        pytest.skip("config.md is wrapped by its generator, and examples have pages of their own")
    longest = MAX_README_LINE if page.parent == ROOT else MAX_LINE
    for number, line in prose(page):
        assert len(line) <= longest or re.fullmatch(r"\s*\S*\]\(\S+", line), f"line {number}: {len(line)}"


def test_folders_of_pages_can_be_taken_in_at_a_glance() -> None:
    for folder in (DOCS, *folders_of(DOCS)):
        assert sum(path.is_file() for path in folder.iterdir()) <= MAX_PAGES, name_of(folder)


@pytest.mark.parametrize("room", ["docs", *ROOMS])
def test_nobody_cites_a_note_that_is_not_in_the_repository(room: str) -> None:
    """Nor in README; settings of examples may name any folder."""
    paths = [
        ROOT / "README.md",
        *(p for s in ("py", "md", "sh", "sbatch") for p in (ROOT / room).rglob(f"*.{s}")),
    ]
    assert [
        f"{name_of(path)}:{number} cites {cited[0]}"
        for path in sorted({*paths, ROOT / "README.md"} - {Path(__file__)})
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (cited := OTHERS_NOTES.search(line))
    ] == []
