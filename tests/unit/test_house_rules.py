"""The rules of the code base, read off the syntax trees: sizes, imports that point one way, habits."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "megatron_coreward"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [
    *MODULES,
    *(path for name in ("tools", "tests", "benchmarks") for path in sorted((ROOT / name).rglob("*.py"))),
]
MAX_FILE, MAX_FUNCTION = 400, 60
FOLDERS_MAPPED_AS_ONE = ("`utils/`", "`actor/families/`", "`coreward/rewards/`")

LOWEST = ("types", "utils")
PLACEMENT = "rollout.placement"  # which requests a step makes: pure, without vLLM
MAY_IMPORT = {
    "utils": ("utils",),
    "types": (),
    "coreward": (*LOWEST, "config", "roles", "coreward"),
    "data": (*LOWEST, "config", "data"),
    "algorithm": (*LOWEST, "config", "algorithm"),
    "actor": (*LOWEST, "config", "config_model", "config_precision", "roles", "algorithm", "actor"),
    "rollout": (*LOWEST, "config", "config_model", "roles", "rollout", PLACEMENT),
    "memory_phases": (*LOWEST, "config", "roles", "phases"),
    "phases": ("roles",),
    "weight_sync": (*LOWEST, "roles", PLACEMENT),
    "trainer": (
        *LOWEST,
        "config",
        "roles",
        "data",
        "coreward",
        "algorithm",
        "memory_phases",
        "weight_sync",
        "evaluation",
        PLACEMENT,
    ),
}
"""Part of the package -> the parts it may import. What is not listed (train.py, the tools) composes."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_from(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imports(path))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text() == "", name_of(path)
    body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert [type(node) for node in body] == [ast.Expr, ast.Assign], "a docstring and the version"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_engines_stay_in_their_corner(path: Path) -> None:
    part = part_of(path)
    if part != "actor":
        assert not imports_from(path, "megatron"), "only actor/ imports megatron.core"
    if part != "rollout":
        assert not imports_from(path, "vllm"), "only rollout/ imports vllm"
    if part == "coreward" or part.startswith("config"):
        assert not imports_from(path, "torch"), "no torch in coreward/ and config*.py"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part in MAY_IMPORT:
        ours = {name.split(".", 1)[1] for name in imports(path) if name.startswith("megatron_coreward.")}
        ours = {PLACEMENT if name.startswith(PLACEMENT) else name.split(".")[0] for name in ours}
        assert ours <= set(MAY_IMPORT[part]), (
            f"{part} may import {', '.join(MAY_IMPORT[part]) or 'nothing of ours'}"
        )
    assert part == "train" or not imports_from(path, "megatron_coreward.train"), (
        "nothing imports the entry point"
    )


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


def test_readme_maps_every_module() -> None:
    """The file-by-file map of the README; folders mapped as a whole end in a slash."""
    readme = (ROOT / "README.md").read_text()
    for path in MODULES:
        name = str(path.relative_to(PACKAGE))
        folders = [f"`{parent}/`" for parent in path.relative_to(PACKAGE).parents if str(parent) != "."]
        whole = any(folder in readme for folder in folders if folder in FOLDERS_MAPPED_AS_ONE)
        assert path.name == "__init__.py" or whole or f"`{name}`" in readme, (
            f"{name} is not in the README's map"
        )


def test_readme_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
