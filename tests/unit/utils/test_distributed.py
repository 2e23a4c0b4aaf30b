"""Joining and leaving a process group: twice in one process, and at a port that is in use."""

import os
import socket

import pytest
import torch.distributed as dist

from megatron_coreward.utils.distributed import TorchCommunicator, initialize, shutdown

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Not under torchrun, and in no group."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield
    shutdown()


def test_a_single_process_can_join_a_second_time_and_leaves_no_variable_behind():
    for _ in range(2):
        initialize()
        assert os.environ["RANK"] == "0" and TorchCommunicator().world_size == dist.get_world_size() == 1
        shutdown()
        assert not [name for name in VARIABLES if name in os.environ]


def test_variables_of_torchrun_stay(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = dict(zip(VARIABLES, ("0", "0", "1", "127.0.0.1", str(port)), strict=True))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    initialize()
    shutdown()
    assert {name: os.environ[name] for name in VARIABLES} == given


def test_a_port_in_use_is_one_line_that_says_what_to_do(monkeypatch):
    with socket.socket(socket.AF_INET6) as other:  # torch listens on all addresses
        other.bind(("::", 0))
        other.listen()
        values = ("0", "0", "1", "127.0.0.1", str(other.getsockname()[1]))
        for name, value in zip(VARIABLES, values, strict=True):
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=r"^MASTER_PORT is \d+, but another program uses .* --ranks N"):
            initialize()
