"""A recipe with run.sbatch under a real SLURM of two nodes of one rank: stopped, requeued, resumed, done.

The nodes are slurmd daemons on this machine. Tests without SLURM: tests/unit/examples/test_sbatch.py.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

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

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]
PATIENCE_S = 450
STEPS = 30
ENDS = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")


class Cluster:
    """sbatch, scancel and scontrol of a throw-away SLURM, for jobs in one project folder."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def submit(self, name: str, *options: str, **overrides: object) -> str:
        """Starts the recipe with output folder and log called `name`; returns the job's number."""
        arguments = recipe_settings(self.folder, self.folder / name, **overrides)
        options = ("--nodes=2", "--gpus-per-node=0", f"--output={name}.out", *options)
        script = ("examples/gpu/run.sbatch", RECIPE)
        return self._run("sbatch", "--parsable", *options, *script, *arguments).strip()

    def signal(self, job: str, name: str) -> None:
        self._run("scancel", "--batch", f"--signal={name}", job)

    def limit(self, job: str, minutes: int) -> None:
        """A new time limit for a job."""
        self._run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def look(self, job: str) -> dict[str, str]:
        """JobState, Restarts, ExitCode and what else SLURM knows about a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self._run("scontrol", "show", "job", job)))

    def wait(self, job: str, condition: Callable[[], bool], *, ends: bool = False) -> None:
        """Until `condition`, before which the job may not end unless it `ends`."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            state = self.look(job)["JobState"]
            assert ends or state not in ENDS, f"{state}\n{self.logs()}"
            assert time.monotonic() < deadline, f"{state} after {PATIENCE_S} s\n{self.logs()}"
            time.sleep(0.5)

    def finish(self, job: str) -> dict[str, str]:
        self.wait(job, lambda: self.look(job)["JobState"] in ENDS, ends=True)
        return self.look(job)

    def logs(self) -> str:
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in self.folder.glob("*.out"))

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with throwaway("cluster.sh", "SLURM_CONF") as environment:
        yield Cluster(make_project(tmp_path_factory.mktemp("slurm")), environment)


def test_usr1_requeues_and_the_end_is_that_of_an_uninterrupted_job(cluster: Cluster) -> None:
    straight = cluster.submit("straight", run__steps=STEPS)
    assert cluster.finish(straight)["JobState"] == "COMPLETED", cluster.logs()
    log = (cluster.folder / "straight.out").read_text()
    assert f"step {STEPS}/{STEPS}" in log, "rank 0 is not heard in the job's log"

    job, run = cluster.submit("stopped", run__steps=STEPS), cluster.folder / "stopped"
    cluster.wait(job, lambda: steps(run) >= 3)
    cluster.signal(job, "USR1")
    end = cluster.finish(job)
    log = (cluster.folder / "stopped.out").read_text()
    assert (end["JobState"], end["Restarts"], end["ExitCode"]) == ("COMPLETED", "1", "0:0"), log
    stopped, resumed = log.split(f"requeueing job {job}")
    assert "USR1 received" in stopped and f"step {STEPS}/{STEPS}" not in stopped, log
    assert "run.sbatch: done" in resumed and "step 1/" not in resumed, log
    assert_same_run(run, cluster.folder / "straight")
    lives = [path.name.rsplit("-", 1) for path in run.glob("wandb/offline-run-*")]
    assert len(lives) == 2 and len({name for _, name in lives}) == 1, "not the same W&B run"


def test_the_time_limit_requeues_and_term_does_not(cluster: Cluster) -> None:
    """SLURM sends USR1, as long ahead of the limit as run.sbatch says; SIGTERM ends its second life."""
    job, run = cluster.submit("limited", "--time=60", run__steps=LONG), cluster.folder / "limited"
    cluster.wait(job, lambda: steps(run) >= 3)
    cluster.limit(job, 20)  # --signal=B:USR1@1200: at once
    cluster.wait(job, lambda: cluster.look(job)["Restarts"] == "1")
    cluster.limit(job, 60)
    saved = steps(run)
    assert (run / "checkpoints" / f"step_{saved:06d}").is_dir()
    cluster.wait(job, lambda: steps(run) >= saved + 2)
    cluster.signal(job, "TERM")
    end = cluster.finish(job)
    assert (end["JobState"], end["Restarts"], end["ExitCode"]) == ("FAILED", "1", "3:0"), cluster.logs()
    assert "submit the job again to go on" in (cluster.folder / "limited.out").read_text()
    assert (run / "checkpoints" / f"step_{steps(run):06d}").is_dir()
