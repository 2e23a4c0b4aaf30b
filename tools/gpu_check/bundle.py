"""Writes an archive that runs the checks on a machine without network.

    python -m tools.gpu_check.bundle [--output gpu-bundle.tar.gz]

It holds the sources that the checks need, and the wheels (Linux x86-64, Python 3.11 and 3.12) that a machine
with torch, numpy, transformers and safetensors lacks, in the versions of requirements/cpu-lock.txt; pip
downloads them. There: tar xf gpu-bundle.tar.gz && sh gpu-bundle/run.sh
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.gpu_check.runner import ROOT

MAX_BYTES = 25 * 10**6
SOURCES = (
    *("megatron_coreward", "tools/gpu_check", "tests/support", "tests/oracles"),
    *("tests/distributed/actor/actor_runs.py", "benchmarks/actor.py", "LICENSE"),
)
PACKAGES = (
    *("megatron-core", "einops", "psutil", "pydantic", "pydantic-core"),
    *("annotated-types", "typing-inspection", "typing-extensions"),
)
PYTHONS = ("3.11", "3.12")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
RUN = "tools/gpu_check/run.sh"


def sources() -> Iterator[Path]:
    """Files of SOURCES, relative to the root."""
    for name in SOURCES:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                yield file.relative_to(ROOT)


def download(folder: Path) -> None:
    """The wheels of PACKAGES for all of PYTHONS."""
    for python in PYTHONS:
        platforms = [f"--platform={platform}" for platform in PLATFORMS]
        lock = ROOT / "requirements" / "cpu-lock.txt"
        options = ["--no-deps", "--only-binary=:all:", f"--constraint={lock}", f"--dest={folder}"]
        target = ["--implementation=cp", f"--python-version={python}", *platforms]
        command = [sys.executable, "-m", "pip", "--quiet", "download", *options, *target, *PACKAGES]
        subprocess.run(command, check=True)


def write(output: Path, wheels: Path) -> None:
    """Raises ValueError if the archive is larger than MAX_BYTES; it is removed then."""
    name = output.name.removesuffix(".tar.gz")
    with tarfile.open(output, "w:gz") as archive:
        for file in sources():
            archive.add(ROOT / file, f"{name}/{file}")
        archive.add(ROOT / RUN, f"{name}/run.sh")
        for wheel in sorted(wheels.glob("*.whl")):
            archive.add(wheel, f"{name}/wheels/{wheel.name}")
    size = output.stat().st_size
    if size > MAX_BYTES:
        output.unlink()
        raise ValueError(f"the bundle has {size / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} MB are allowed")
    sys.stdout.write(f"{output}: {size / 1e6:.1f} MB\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("gpu-bundle.tar.gz"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        download(Path(folder))
        write(options.output, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
