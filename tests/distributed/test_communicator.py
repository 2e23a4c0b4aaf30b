"""Exchange of host objects between gloo ranks, and start and end of the process group."""

import os
import random

import numpy as np
import pytest
import torch
import torch.distributed as dist

from megatron_coreward.utils.distributed import TorchCommunicator, initialize, preserve_rng, shutdown
from tests.support.ranks import run_ranks


def exchange(rank: int) -> list:
    communicator = TorchCommunicator()
    return communicator.all_to_all([(rank, target) for target in range(communicator.world_size)])


def exchange_uneven(rank: int) -> tuple[list, int]:
    """Every rank sends None, nothing, or an array, of very different sizes."""
    communicator = TorchCommunicator()
    outgoing = [None, [], np.arange(1000 * rank)][: communicator.world_size]
    received = communicator.all_to_all(outgoing)
    return [r if r is None else list(r) for r in received], communicator.bytes_sent


def send_large_to_last(rank: int, size: int) -> list[int]:
    communicator = TorchCommunicator()
    last = communicator.world_size - 1
    payload = bytes([rank]) * size
    received = communicator.all_to_all([payload if d == last else b"" for d in range(last + 1)])
    assert all(set(item[:: size // 7]) <= {source} for source, item in enumerate(received))
    return [len(item) for item in received]


def gather_and_broadcast(rank: int) -> tuple[list, str]:
    communicator = TorchCommunicator()
    values = communicator.all_gather({"rank": rank, "text": "x" * rank})
    return values, communicator.broadcast(f"from {rank}", source=1)


def gather_uneven(rank: int) -> list:
    communicator = TorchCommunicator()
    first = communicator.gather([rank] * 1000 * rank)
    return [len(values) for values in first] + communicator.gather(f"from {rank}")


@pytest.mark.parametrize("world_size", [2, 3])
def test_all_to_all_delivers_by_source(world_size):
    results = run_ranks(world_size, exchange)
    assert results == [[(source, rank) for source in range(world_size)] for rank in range(world_size)]


def test_all_to_all_of_empty_and_uneven_payloads():
    results = run_ranks(3, exchange_uneven)
    assert [received for received, _ in results] == [
        [None, None, None],
        [[], [], []],
        [[], list(range(1000)), list(range(2000))],
    ]
    bytes_sent = [sent for _, sent in results]
    assert bytes_sent[1] > 8 * 1000
    assert bytes_sent[2] < 100  # its large array stayed with itself


def test_all_to_all_of_fifty_megabytes():
    size = 50 * 2**20
    assert run_ranks(2, send_large_to_last, size) == [[0, 0], [size, size]]


def test_all_gather_and_broadcast():
    expected = ([{"rank": 0, "text": ""}, {"rank": 1, "text": "x"}], "from 1")
    assert run_ranks(2, gather_and_broadcast) == [expected, expected]


def test_gather_gives_rank_0_what_all_have_and_the_others_nothing():
    assert run_ranks(3, gather_uneven) == [[0, 1000, 2000, "from 0", "from 1", "from 2"], [], []]


def test_without_a_process_group_the_world_is_one():
    communicator = TorchCommunicator()
    assert (communicator.rank, communicator.world_size) == (0, 1)
    assert communicator.all_to_all(["a"]) == ["a"]
    assert communicator.all_gather("a") == ["a"]
    assert communicator.gather("a") == ["a"]
    assert communicator.broadcast("a") == "a"
    with pytest.raises(AssertionError, match="2 items for 1 ranks"):
        communicator.all_to_all(["a", "b"])


@pytest.fixture
def single_process(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that monkeypatch undoes what initialize sets
        monkeypatch.delenv(name)
    yield
    shutdown()


def test_a_single_process_gets_a_group_of_its_own(single_process):
    initialize()
    assert dist.get_world_size() == 1
    assert os.environ["RANK"] == "0"
    assert TorchCommunicator().all_to_all([{"a": 1}]) == [{"a": 1}]
    initialize()  # a second call changes nothing
    shutdown()
    assert not dist.is_initialized()
    shutdown()


def test_preserve_rng_restores_all_three_generators():
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = draw()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    with pytest.raises(KeyError), preserve_rng():
        torch.manual_seed(99), np.random.seed(99), random.seed(99)
        draw()
        raise KeyError
    assert draw() == expected
