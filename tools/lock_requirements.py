"""Writes requirements/cpu-lock.txt: every package of the CPU environment with its exact version.

Lets pip resolve requirements/cpu.in (nothing is installed), walks from its lines along what each package
asks for, never into a package of cpu-excluded.txt, and adds cpu-no-deps.in. The lock is installed with
`pip install --no-deps`; so what only an excluded package needs is gone as well. Run by `make lock`.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from rich.console import Console

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
_HEADER = "# Written by `make lock` from cpu.in, cpu-no-deps.in and cpu-excluded.txt; do not edit.\n"


def read_lines(path: Path) -> list[Requirement]:
    """The requirements of a file, without comments."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def closure(
    resolved: Sequence[Mapping[str, Any]], direct: Sequence[Requirement], excluded: Sequence[Requirement]
) -> dict[str, str]:
    """Canonical name -> version of all that `direct` needs without `excluded`.

    `resolved` is the `install` list of pip's installation report: one entry with `metadata` per package.
    """
    packages = {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in resolved}
    left_out = {canonicalize_name(item.name) for item in excluded}
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(item, "") for item in direct]
    while queue:
        requirement, asking_extra = queue.pop()
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": asking_extra})
        if not applies or name in left_out:
            continue
        versions[name] = Version(packages[name]["version"]).public
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) not in seen:
                seen.add((name, extra))
                needs = packages[name].get("requires_dist", [])
                queue.extend((Requirement(text), extra) for text in needs)
    return versions


def main() -> None:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--only-binary", ":all:", "--report", "-", "-r", str(FOLDER / "cpu.in")]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    direct, excluded = read_lines(FOLDER / "cpu.in"), read_lines(FOLDER / "cpu-excluded.txt")
    versions = closure(report["install"], direct, excluded)
    lines = [f"{name}=={version}" + _marker(name) for name, version in versions.items()]
    lines += [str(requirement) for requirement in read_lines(FOLDER / "cpu-no-deps.in")]
    (FOLDER / "cpu-lock.txt").write_text(_HEADER + "\n".join(sorted(lines)) + "\n")
    Console().print(f"requirements/cpu-lock.txt: {len(lines)} packages")


def _marker(name: str) -> str:
    """Intel's OpenMP runtime exists for x86_64 only."""
    return '; platform_machine == "x86_64"' if name.startswith("intel-") else ""


if __name__ == "__main__":
    main()
