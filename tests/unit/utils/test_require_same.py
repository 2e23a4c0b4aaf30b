"""If ranks run different versions or configurations, every rank gets an error."""

import pytest

from megatron_coreward.utils.distributed import require_same
from megatron_coreward.utils.versions import versions
from tests.support.fakes import run_threads


def errors(facts: list[dict[str, object]]) -> list[str]:
    def work(comm):
        try:
            require_same(comm, facts[comm.rank], "make them equal")
        except ValueError as error:
            return str(error)
        return ""

    return run_threads(len(facts), work)


def test_the_same_on_all_ranks():
    assert errors([versions()] * 3) == ["", "", ""]
    assert {"python", "torch", "megatron-core", "transformers"} <= versions().keys()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"a": 1, "b": 3}, "b is 2 on rank 0, but 3 on rank 2: make them equal"),
        ({"a": 1}, "b is 2 on rank 0, but None on rank 2"),
        ({"a": 1, "b": 2, "vllm": "0.32"}, "vllm is None on rank 0, but '0.32' on rank 2"),
    ],
)
def test_what_differs_is_named_on_every_rank(other, words):
    same = {"a": 1, "b": 2}
    found = errors([same, same, other])
    assert len(set(found)) == 1 and words in found[0]
