"""Layouts of a Mixture of Experts: the refused ones, with messages that name allowed values."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_coreward.config.schema import Config, ParallelConfig
from megatron_coreward.planning.models import KNOWN
from megatron_coreward.preflight.layout import check_model

MIXTURE, DENSE = KNOWN["Qwen3-30B-A3B-Base"], KNOWN["Qwen3-8B-Base"]


def check(parallel: ParallelConfig, ranks: int, shape=MIXTURE) -> None:
    check_model(Config(parallel=parallel), shape, ranks)


def test_layouts_that_work() -> None:
    check(ParallelConfig(), 1)
    check(ParallelConfig(), 4)
    check(ParallelConfig(expert=8), 8)
    check(ParallelConfig(tensor=2, sequence=True, expert=2), 2)
    check(ParallelConfig(tensor=2, pipeline=2, sequence=True, expert=4), 8)
    check(ParallelConfig(tensor=2), 4, DENSE)


@pytest.mark.parametrize(
    ("parallel", "ranks", "message"),
    [
        (ParallelConfig(expert=3), 6, r"must divide the model's 128 experts and the 6 ranks .*: \[1, 2\] do"),
        (ParallelConfig(expert=8), 4, r"the 4 ranks of a pipeline stage .*: \[1, 2, 4\] do"),
        (ParallelConfig(pipeline=2, expert=4), 4, r"the 2 ranks of a pipeline stage"),
        (ParallelConfig(tensor=2, expert=2), 2, r"needs parallel.sequence=true and .*they are false and 2"),
        (ParallelConfig(tensor=2, sequence=True), 2, r"parallel.expert above 1; they are true and 1"),
    ],
)
def test_layouts_that_do_not(parallel: ParallelConfig, ranks: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(parallel, ranks)


def test_a_dense_model_has_no_experts() -> None:
    with pytest.raises(ValueError, match=r"parallel.expert is 2, but Qwen3ForCausalLM .* has no experts"):
        check(ParallelConfig(expert=2), 2, replace(DENSE, folder=Path("model")))
