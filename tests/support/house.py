"""The package as a house: its rooms, who imports whom, and how large everything is.

    python -m tests.support.house [CHECKOUT]        the figures of docs/architecture.md

A folder of the package is a room, and so is a module at its top.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of(package: Path) -> dict[str, Path]:
    """Name without that of the package -> file, for all modules but the empty __init__.py."""
    files = (path for path in sorted(package.rglob("*.py")) if path.name != "__init__.py")
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in files}


def arrows(modules: dict[str, Path], package: str) -> set[tuple[str, str]]:
    """(room, room that it imports), for all rooms of the package."""
    found = set()
    for name, path in modules.items():
        ours = {other.removeprefix(f"{package}.") for other in imports(path)} & modules.keys()
        found |= {(name.split(".")[0], other.split(".")[0]) for other in ours}
    return {(a, b) for a, b in found if a != b}


def figures(root: Path) -> dict[str, int | str]:
    """What docs/architecture.md says of a checkout."""
    package = root / "megatron_coreward"
    modules = modules_of(package)
    tracked = subprocess.run(["git", "-C", str(root), "ls-files"], capture_output=True, text=True, check=True)
    files = [root / name for name in tracked.stdout.splitlines()]

    def lines(folder: str, suffix: str = ".py") -> int:
        chosen = (f for f in files if f.suffix == suffix and f.is_relative_to(root / folder))
        return sum(len(f.read_text().splitlines()) for f in chosen)

    pages = [f for f in files if f.suffix == ".md" and f.is_relative_to(root / "docs")]
    folders = Counter(str(path.parent.relative_to(package)) for path in modules.values())
    [(largest, size)] = folders.most_common(1)
    return {
        "modules": len(modules),
        "modules at the top": folders["."],
        "largest folder": f"{largest}/ with {size}",
        "rooms": len({name.split(".")[0] for name in modules}),
        "import arrows between rooms": len(arrows(modules, package.name)),
        "lines of the package and of tools/": lines("megatron_coreward") + lines("tools"),
        "lines of tests": lines("tests"),
        "words of docs/": sum(len(page.read_text().split()) for page in pages),
        "words of the README": len((root / "README.md").read_text().split()),
    }


if __name__ == "__main__":
    for name, value in figures(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT).items():
        sys.stdout.write(f"{name:36} {value}\n")
