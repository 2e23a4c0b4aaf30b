# Every target sets up what it needs in .venv. Variables:
#   PYTHON  the Python 3.11 that .venv is made from: make setup PYTHON=/path/to/python3.11
# pip's own environment variables (PIP_EXTRA_INDEX_URL, PIP_CERT, ...) reach pip unchanged.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python -m
TESTS := $(wildcard tests/unit tests/distributed tests/e2e)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-matrix test-device test-slurm gpu-check gpu-bundle test-gpu bench bench-all bench-compare bench-gpu lint lock lock-gpu reference clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv from requirements/cpu-lock.txt
	@echo "Ready. The command is $(CURDIR)/$(VENV)/bin/coreward; or run: . $(VENV)/bin/activate"

quickstart: $(READY)  ## Co-Reward on this CPU: toy model, training without labels, before and after
	bash examples/quickstart/run.sh

test: $(READY)  ## run the tests that need no GPU, but for the long ones
	$(RUN) pytest --durations=25 -m "not gpu and not slow and not slurm" $(TESTS)

test-matrix: $(READY)  ## run the long tests, every layout with every other
	$(RUN) pytest -m slow $(TESTS)

test-device: $(READY)  ## run the whole GPU path on a pretended device: every layout with every option
	$(RUN) pytest tests/distributed/device

test-slurm: $(READY)  ## as root: run the tests on a throw-away SLURM and on two hosts
	$(RUN) pytest -m slurm tests/e2e/slurm

gpu-check:  ## the first minutes on a GPU, with the python on PATH: BUDGET=300 (seconds), ONLY=name
	python -m tools.gpu_check --budget $(or $(BUDGET),300) $(if $(ONLY),--only $(ONLY))

gpu-bundle: $(READY)  ## an archive that runs gpu-check on a machine without network
	$(RUN) tools.gpu_check.bundle --output gpu-bundle.tar.gz

test-gpu:  ## the checks of gpu-check as tests, each with time enough, with the python on PATH
	python -m pytest -m gpu tests/gpu

bench: $(READY)  ## benchmarks on this CPU, 30 minutes on 2 cores that do nothing else: benchmarks/RESULTS.md
	$(RUN) benchmarks

bench-all: $(READY)  ## every row of the benchmarks that has no JSON file in build/bench yet
	$(RUN) benchmarks --all

bench-compare: $(READY)  ## fail if a row has become slower beyond the spread: OLD=a.json NEW=b.json
	$(RUN) benchmarks --compare $(OLD) $(NEW)

bench-gpu:  ## MFU of the policy update on one GPU, with the python on PATH
	python -m benchmarks.actor --output bench-gpu.json

lint: $(READY)  ## ruff and mypy
	$(RUN) ruff check .
	$(RUN) mypy

lock: $(READY)  ## resolve requirements/cpu.in anew into requirements/cpu-lock.txt
	$(VENV)/bin/python tools/lock_requirements.py

lock-gpu: $(READY)  ## resolve the extra gpu anew into requirements/gpu-lock.txt, for Linux and CUDA 13
	$(VENV)/bin/python tools/lock_gpu.py

reference: $(READY)  ## regenerate docs/config.md
	$(RUN) megatron_coreward.config.reference_page > docs/config.md

clean:  ## remove .venv and caches (keeps runs/)
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements/cpu-lock.txt setup.py pyproject.toml
	@sh tools/check_system.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV)
	$(RUN) pip install --no-deps --only-binary :all: --requirement requirements/cpu-lock.txt
	$(RUN) pip install --no-deps --no-build-isolation --editable .
	@sh tools/check_torch.sh $(VENV)/bin/python
	@touch $@
