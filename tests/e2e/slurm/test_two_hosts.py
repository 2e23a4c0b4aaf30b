"""run.sh on two hosts, made of network namespaces with their own addresses, ports and names, and a cable."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from tests.e2e.slurm.runs import (
    LONG,
    RECIPE,
    assert_same_run,
    make_project,
    recipe_settings,
    steps,
    throwaway,
)
from tests.support.programs import TRAIN, launch

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]
PATIENCE_S = 450
PORT = 29500


class Hosts:
    """Hosts a and b, and a project folder that both of them see."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def start(self, host: str, name: str, first: str, arguments: list[str]) -> subprocess.Popen[str]:
        """run.sh on `host` for run `name`, where host `first` is node 0."""
        node = {"NODES": "2", "NODE_RANK": str(int(host != first)), "RDZV_ENDPOINT": f"host-{first}:{PORT}"}
        return subprocess.Popen(
            [self.environment["ON_HOST"], host, "bash", "examples/gpu/run.sh", *arguments],
            cwd=self.folder,
            env={**self.environment, **node, "LOG_DIR": f"runs/logs/{name}", "RDZV_ID": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, host: str, *command: str) -> str:
        done = subprocess.run(
            [self.environment["ON_HOST"], host, *command], capture_output=True, text=True, check=True
        )
        return done.stdout


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with throwaway("two_hosts.sh", "ON_HOST") as environment:
        yield Hosts(make_project(tmp_path_factory.mktemp("hosts")), environment)


def wait_for_step(step: int, output: Path, nodes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while steps(output) < step:
        assert all(node.poll() is None for node in nodes), [finish(node) for node in nodes]
        assert time.monotonic() < deadline, f"not at step {step} after {PATIENCE_S} s"
        time.sleep(0.2)


def finish(node: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output."""
    output = node.communicate(timeout=PATIENCE_S)[0]
    return node.returncode, output


@pytest.mark.parametrize(("tensor", "first"), [(1, "a"), (2, "b")])
def test_two_hosts_do_what_one_does(tensor: int, first: str, hosts: Hosts) -> None:
    """Also where node 0 does not get rank 0: torchrun orders ranks by host name."""
    name = f"tensor_{tensor}"
    output = hosts.folder / f"{name}_two"
    arguments = recipe_settings(hosts.folder, output, parallel__tensor=tensor)
    before = received(hosts)
    nodes = [hosts.start(host, name, first, [RECIPE, *arguments]) for host in ("a", "b")]
    ends = [finish(node) for node in nodes]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "step 6/6" in ends[0][1], "rank 0 is on host a"
    assert received(hosts) - before > 1_000_000, "the ranks did not talk over the cable"

    expected = hosts.folder / f"{name}_one"
    arguments = recipe_settings(hosts.folder, expected, parallel__tensor=tensor)
    result = launch(2, *TRAIN, "--config", RECIPE, *arguments)
    assert result.returncode == 0, result.stdout
    assert_same_run(output, expected)


def test_node_0_stops_and_lets_rank_0_close_its_logs_elsewhere(hosts: Hosts) -> None:
    """Closing W&B takes seconds; rank 0 is on host a, the rendezvous ends with node 0, which is host b."""
    output = hosts.folder / "stopped"
    arguments = recipe_settings(hosts.folder, output, run__steps=LONG)
    nodes = [hosts.start(host, "stopped", "b", [RECIPE, *arguments]) for host in ("a", "b")]
    wait_for_step(3, output, nodes)
    os.kill(int((hosts.folder / "runs/logs/stopped/node_0/pid").read_text()), signal.SIGTERM)
    ends = [finish(node) for node in nodes]
    assert [code for code, _ in ends] == [3, 3], ends
    assert "stopped after step" in ends[0][1]
    assert (output / "checkpoints" / f"step_{steps(output):06d}").is_dir()


def test_a_rank_lost_on_one_host_starts_both_again(hosts: Hosts) -> None:
    output = hosts.folder / "lost"
    arguments = recipe_settings(hosts.folder, output, run__steps=20, checkpoint__every=2)
    nodes = [hosts.start(host, "lost", "a", [RECIPE, *arguments]) for host in ("a", "b")]
    wait_for_step(3, output, nodes)
    [rank] = [
        process
        for process in psutil.Process(nodes[1].pid).children(recursive=True)
        if process.name().startswith("python") and "megatron_coreward.train" in process.cmdline()
    ]
    rank.kill()
    ends = [finish(node) for node in nodes]
    assert [code for code, _ in ends] == [0, 0], ends
    assert "resumed after step" in ends[0][1] and steps(output) == 20, ends


@pytest.mark.parametrize("why", ["nobody there", "cable cut"])
def test_an_unreachable_rendezvous_ends_the_node(why: str, hosts: Hosts) -> None:
    if why == "cable cut":
        hosts.run("a", "ip", "link", "set", "cable", "down")
    arguments = recipe_settings(hosts.folder, hosts.folder / "never")
    code, output = finish(hosts.start("b", "never", "a", [RECIPE, *arguments]))
    hosts.run("a", "ip", "link", "set", "cable", "up")
    assert code == 1, output
    assert f"host-a:{PORT} must lead to node 0" in output.splitlines()[-1], output
    assert not (hosts.folder / "never").exists()


def received(hosts: Hosts) -> int:
    """Bytes that host a has got over the cable."""
    return int(hosts.run("a", "cat", "/sys/class/net/cable/statistics/rx_bytes"))
