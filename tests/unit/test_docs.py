"""The pages' links and paths exist, their lines are short, and nothing cites a note that readers lack."""

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
    if not page.is_relative_to(DOCS) or page.name == "config.md":
        pytest.skip("wrapped elsewhere: README in an issue of its own, config.md by its generator")
    for number, line in prose(page):
        assert len(line) <= MAX_LINE or re.fullmatch(r"\s*\S*\]\(\S+", line), f"line {number}: {len(line)}"


def test_folders_of_pages_can_be_taken_in_at_a_glance() -> None:
    for folder in (DOCS, *(path for path in DOCS.iterdir() if path.is_dir())):
        assert len(list(folder.glob("*"))) <= MAX_PAGES, name_of(folder)


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
