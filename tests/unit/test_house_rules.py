"""The rules of the code base, checked on the syntax trees: sizes, one-way imports, style."""

import ast
import re
from pathlib import Path

import pytest

from tests.support.house import imports
from tests.support.paths import ROOT

PACKAGE = ROOT / "megatron_coreward"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [
    *MODULES,
    *(path for name in ("tools", "tests", "benchmarks") for path in sorted((ROOT / name).rglob("*.py"))),
]
MAX_FILE, MAX_FUNCTION = 400, 60
MAX_TOP_LEVEL, MAX_FOLDER, MAX_TESTS_OR_DOCS = 8, 16, 20
MAY_GROW = ("coreward/rewards", "families")  # a file for every method, for every family

GROUND = ("types", "utils", "config")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "types": (),
    "utils": (),
    "grading": (),
    "families": (),
    "requests": ("types",),
    "config": ("utils", "families"),
    "launch": ("utils", "config"),
    "evaluate": ("utils",),
    "show": ("utils",),
    "algorithm": GROUND,
    "roles": ("types", "utils", "algorithm"),
    "phases": (*GROUND, "roles"),
    "data": (*GROUND, "grading"),
    "coreward": (*GROUND, "roles", "grading"),
    "preflight": ("utils", "config", "coreward"),
    "planning": ("config", "roles", "coreward", "phases", "preflight"),
    "rollout": (*GROUND, "requests"),
    "rephrasing": (*(*GROUND, "roles", "grading", "coreward", "data", "preflight", "requests", "rollout"),),
    "data.preparation": ("utils", "config", "grading", "data", "rephrasing"),
    "actor.device": ("utils", "config"),
    "actor.parallel": ("config", "actor.device"),
    "actor.model": (*GROUND, "actor.device", "actor.parallel"),
    "actor.compute": (*GROUND, "roles", "algorithm", "actor.device", "actor.parallel", "actor.model"),
    "actor.checkpoint": ("utils", "config", "roles", "actor.device", "actor.model", "actor.compute"),
    "actor.weights": (
        *GROUND,
        "families",
        "actor.device",
        "actor.parallel",
        "actor.model",
        "actor.checkpoint",
    ),
    "actor.convert": (
        *(*GROUND, "roles", "actor.device", "actor.parallel"),
        *("actor.model", "actor.checkpoint", "actor.weights"),
    ),
    "actor": (
        *(*GROUND, "roles", "algorithm", "actor.device", "actor.parallel"),
        *("actor.model", "actor.compute", "actor.checkpoint", "actor.weights"),
    ),
    "evaluation": (
        *(*GROUND, "roles", "grading", "coreward", "preflight", "planning", "data", "requests", "rollout"),
        *("actor.parallel", "actor.checkpoint", "actor.convert"),
    ),
    "run": (*GROUND, "roles", "actor.checkpoint", "evaluation"),
    "weight_sync": ("types", "utils", "roles", "requests"),
    "trainer": (
        *(*GROUND, "roles", "algorithm", "phases", "data", "coreward"),
        *("requests", "evaluation", "run", "weight_sync"),
    ),
    "reporting": (*GROUND, "coreward", "evaluation", "run"),
    "api": (*GROUND, "grading", "coreward", "evaluation", "run"),
    "doctor": ("utils", "data"),
    "train": (
        *(*GROUND, "roles", "grading", "algorithm", "phases", "data", "coreward", "preflight", "rollout"),
        *("actor.parallel", "actor.model", "actor.checkpoint", "actor", "evaluation", "run", "trainer"),
        *("launch", "planning"),
    ),
    "cli": (
        *("utils", "config", "launch", "data", "coreward", "rephrasing", "data.preparation"),
        *("preflight", "planning"),
        *(
            "roles",
            "actor.parallel",
            "actor.model",
            "actor.checkpoint",
            "actor.convert",
            "actor",
            "evaluation",
            "run",
            "reporting",
            "doctor",
            "train",
        ),
    ),
}
"""Room -> the rooms that it may import beside itself; they stand above it. A folder is a room, and so is
a module at the top of the package. In actor/ the folders are rooms, and so are the two modules that all of
them stand on; what lies beside them is the room "actor". data/preparation/ makes the files that data/
reads, and stands below rephrasing/."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_from(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imports(path))


def room_of(name: str) -> str:
    """The room of a module, or of what is imported from one, by its name without that of the package."""
    parts = name.split(".")
    inner = ".".join(parts[:2])
    return inner if inner in MAY_IMPORT else parts[0]


def name_in_package(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_size(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_habits(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "getattr", "hasattr"), (
                f"line {node.lineno}: {node.func.id}()"
            )
        if isinstance(node, ast.ExceptHandler):
            names = (
                {item.id for item in ast.walk(node.type) if isinstance(item, ast.Name)}
                if node.type
                else set()
            )
            assert node.type and not names & {"Exception", "BaseException"}, (
                f"line {node.lineno}: broad except"
            )
        if isinstance(node, ast.Assert):
            assert node.msg is not None, f"line {node.lineno}: assert without a message"
    assert "TODO" not in path.read_text()


@pytest.mark.parametrize("path", [path for path in MODULES if path.name != "__init__.py"], ids=name_of)
def test_module_has_a_header(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_init_files_are_empty() -> None:
    """But that of api/, which holds the public names and no code."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent not in (PACKAGE, PACKAGE / "api"):
            assert path.read_text() == "", name_of(path)
    docstring, *names, listed = ast.parse((PACKAGE / "api" / "__init__.py").read_text()).body
    assert {type(node) for node in names} == {ast.ImportFrom}
    assert isinstance(docstring, ast.Expr) and isinstance(listed, ast.Assign)
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert [type(node) for node in body] == [ast.Expr, ast.Assign], "a docstring and the version"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_engines_stay_in_their_corner(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0]
    if part != "actor":
        assert not imports_from(path, "megatron"), "only actor/ imports megatron.core"
    if part != "rollout":
        assert not imports_from(path, "vllm"), "only rollout/ imports vllm"
    if part in ("grading", "families", "config", "preflight", "coreward"):
        assert not imports_from(path, "torch"), f"no torch in {part}/"


def test_every_room_has_its_row() -> None:
    assert {room_of(name_in_package(path)) for path in MODULES if path.parent != PACKAGE} | {
        path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"
    } == set(MAY_IMPORT)
    above: set[str] = set()
    for room, others in MAY_IMPORT.items():
        assert set(others) <= above, f"{room} may import {set(others) - above}, which stand below it"
        above.add(room)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    room = room_of(name_in_package(path))
    ours = {name.split(".", 1)[1] for name in imports(path) if name.startswith("megatron_coreward.")}
    rooms = {room_of(name) for name in ours if (PACKAGE / f"{name.replace('.', '/')}.py").is_file()}
    assert rooms <= {room, *MAY_IMPORT.get(room, ())}, f"{room} may import {MAY_IMPORT.get(room, ())}"


def test_folders_can_be_taken_in_at_a_glance() -> None:
    def count(folder: Path, pattern: str = "*.py") -> int:
        return sum(path.is_file() and path.name != "__init__.py" for path in folder.glob(pattern))

    assert count(PACKAGE) <= MAX_TOP_LEVEL
    for folder in {path.parent for path in MODULES} - {PACKAGE}:
        if str(folder.relative_to(PACKAGE)) not in MAY_GROW:
            assert count(folder) <= MAX_FOLDER, name_of(folder)
    for folder in {ROOT / "docs", *(path.parent for path in (ROOT / "tests").rglob("*.py"))}:
        assert count(folder, "*") <= MAX_TESTS_OR_DOCS, name_of(folder)


def test_no_import_cycles() -> None:
    """Modules of the package in an order in which each one only needs earlier ones."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    needs = {
        name: {other for other in imports(path) if other in names} - {name} for name, path in names.items()
    }
    while ready := [name for name, others in needs.items() if not others]:
        for name in ready:
            del needs[name]
        for others in needs.values():
            others.difference_update(ready)
    assert not needs, f"a cycle among {sorted(needs)}"


def test_readme_maps_every_room() -> None:
    _, _, after = (ROOT / "README.md").read_text().partition("\nmegatron_coreward/\n")
    words = set(re.split(r"[\s,]+", after.partition("```")[0]))
    for path in MODULES:
        if path.parent == PACKAGE and path.name != "__init__.py":
            assert path.name in words, f"{path.name} is not in the README's map"
        elif path.parent != PACKAGE:
            folder = path.relative_to(PACKAGE).parts[0]
            assert f"{folder}/" in words, f"{folder}/ is not in the README's map"
