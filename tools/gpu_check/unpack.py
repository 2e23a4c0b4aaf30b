"""Makes the packages that this Python lacks importable from a folder.

    python -m tools.gpu_check.unpack WHEELS FOLDER

A wheel of WHEELS that fits this Python and whose package is not installed is unpacked into FOLDER, which is
put on PYTHONPATH. What is installed stays as it is, whatever its version: others may need it. Needs no pip.
"""

import importlib.metadata
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"


def fits(wheel: Path) -> bool:
    python, abi = wheel.stem.split("-")[2:4]
    return abi == "abi3" or python in ("py3", "py2.py3", TAG)


def installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    wheels, folder = map(Path, sys.argv[1:] if arguments is None else arguments)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lacking = {wheel.name.split("-")[0] for wheel in wheels.glob("*.whl")}
    lacking = {package for package in lacking if not installed(package)}
    for package in sorted(lacking):
        fitting = [wheel for wheel in wheels.glob(f"{package}-*.whl") if fits(wheel)]
        if not fitting:
            sys.stderr.write(f"{package} is not installed, and there is no wheel for {TAG} in {wheels}\n")
            return 2
        with zipfile.ZipFile(fitting[0]) as archive:
            archive.extractall(folder)
    sys.stdout.write(f"taken from {wheels}: {', '.join(sorted(lacking)) or 'nothing'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
