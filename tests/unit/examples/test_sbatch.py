"""examples/gpu without SLURM: stubs for srun, scontrol and the trainer, and the real torchrun.

The stubs cannot show that SLURM sends SIGUSR1 and starts a requeued job again.
"""

import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PATIENCE_S = 270

SRUN = """#!/bin/bash
# Starts the command on every "node", and ends with the highest exit code.
while [[ $1 != bash && $1 != python && $1 != torchrun ]]; do
  if [[ $1 == --nodes ]]; then nodes=$2; fi
  shift
done
for ((n = 0; n < nodes; n++)); do SLURM_NODEID=$n "$@" & done
highest=0
for job in $(jobs -p); do wait "$job"; code=$?; if ((code > highest)); then highest=$code; fi; done
exit "$highest"
"""

PYTHON = """#!/bin/bash
# rank.sh's python -m megatron_coreward.train; run.sh's other modules are the real ones
if [[ $2 != megatron_coreward.train ]]; then exec {python} "$@"; fi
shift 2
exec {python} trainer.py "$@"
"""

TRAINER = """
import os, pathlib, signal, sys, time
arguments, rank = sys.argv[1:], os.environ["RANK"]
with open(f"starts_{rank}", "a") as file:
    file.write(" ".join(arguments) + "\\n")
code = int(os.environ["TRAINER_CODE"])
if "REASON" in os.environ:
    from megatron_coreward.utils.failures import end
    time.sleep(3 * (rank == os.environ["LATE_RANK"]))
    sys.exit(end(os.environ["REASON"], code))
starts = len(open(f"starts_{rank}").read().splitlines())
if code == 1 and os.environ.get("CRASHES") == "once" and starts > 1:
    sys.exit(0)
if code != 3:
    sys.exit(code)
checkpoint = pathlib.Path("checkpoint")
if checkpoint.exists():
    assert "run.auto_resume=true" in arguments
    sys.exit(0)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
pathlib.Path(f"ready_{rank}").touch()
stop = pathlib.Path("stop")  # for the collective in which the ranks agree to stop
deadline = time.monotonic() + 60
while not stop.exists():
    if asked:
        pathlib.Path(f"sigterm_{rank}").touch()
        stop.touch()
    if time.monotonic() > deadline:
        sys.exit(9)
    time.sleep(0.02)
time.sleep(0.3)
checkpoint.touch()
sys.exit(3)
"""


class Cluster:
    """A project folder with stubs on the PATH; `start` is what SLURM does with run.sbatch."""

    def __init__(self, folder: Path, nodes: int = 1) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        (folder / "examples").symlink_to(ROOT / "examples")
        (folder / "trainer.py").write_text(TRAINER)
        (folder / "environment/bin").mkdir(parents=True)
        (folder / "environment/bin/activate").touch()
        self.stub("srun", SRUN)
        self.stub("scontrol", '#!/bin/bash\necho "$@" >> scontrol\n')
        self.stub("python", PYTHON.format(python=shlex.quote(sys.executable)))
        port = free_port()
        self.environment = os.environ | {
            "PATH": f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SLURM_JOB_ID": str(port - 20000),
            "SLURM_JOB_NAME": "recipe",
            "SLURM_NNODES": str(nodes),
            "SLURM_CPUS_ON_NODE": "1",
            "SLURM_ARRAY_TASK_ID": "1",
            "SLURM_ARRAY_TASK_COUNT": "2",
            "VENV": "environment",
            "GPUS_PER_NODE": "1",
            "SHUTDOWN_TIMEOUT": "60",
            "TRAINER_CODE": "3",
        }
        self.logs = folder / f"runs/logs/recipe-{port - 20000}"

    def stub(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(script)
        path.chmod(0o755)

    def start(self, *arguments: str, script: str = "run.sbatch", **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", f"examples/gpu/{script}", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, script: str = "run.sbatch", **environment: str) -> tuple[int, str]:
        """Exit code and output."""
        job = self.start(*arguments, script=script, **environment)
        return finish(job)

    def wait_for(self, names: Sequence[str], job: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not all((self.folder / name).exists() for name in names):
            assert job.poll() is None, job.communicate()[0]
            if time.monotonic() > deadline:
                os.killpg(job.pid, signal.SIGKILL)
                raise TimeoutError(f"no {names} after {PATIENCE_S} s")
            time.sleep(0.05)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


def finish(job: subprocess.Popen[str]) -> tuple[int, str]:
    output = job.communicate(timeout=PATIENCE_S)[0]
    return job.returncode, output


def free_port() -> int:
    """One that run.sbatch can derive from a job's id."""
    while True:
        port = random.randrange(20001, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.fixture(autouse=True)
def no_orphans(tmp_path: Path) -> Iterator[None]:
    """No stub trainer may outlive its job."""
    yield
    running = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert not running, f"still running: {running}"


def test_usr1_saves_requeues_and_resumes(tmp_path: Path) -> None:
    """Two nodes: only node 0 gets a signal, one, and both end. The job's second start goes on."""
    cluster = Cluster(tmp_path, nodes=2)
    job = cluster.start("config.yaml", "run.seed=7")
    cluster.wait_for(["ready_0", "ready_1"], job)
    job.send_signal(signal.SIGUSR1)
    time.sleep(0.2)  # sent at once, the two would be one
    job.send_signal(signal.SIGUSR1)
    code, output = finish(job)
    assert code == 0, output
    assert cluster.lines("scontrol") == [f"requeue {cluster.environment['SLURM_JOB_ID']}"]
    assert sorted(path.name for path in tmp_path.glob("sigterm_*")) in (["sigterm_0"], ["sigterm_1"])
    start = "--config config.yaml run.auto_resume=true run.seed=7"
    assert cluster.lines("starts_0") == cluster.lines("starts_1") == [start]

    code, output = cluster.run("config.yaml", "run.seed=7")
    assert code == 0, output
    assert "run.sbatch: done" in output
    assert cluster.lines("starts_0") == cluster.lines("starts_1") == [start, start]
    assert len(cluster.lines("scontrol")) == 1
    for node in ("node_0", "node_1"):
        assert len(list((cluster.logs / node).rglob("stdout.log"))) == 2, "a file per rank and start"


def test_sigterm_saves_without_requeue(cluster: Cluster) -> None:
    job = cluster.start("config.yaml")
    cluster.wait_for(["ready_0"], job)
    job.send_signal(signal.SIGTERM)
    code, output = finish(job)
    assert code == 3, output
    assert "submit the job again" in output
    assert cluster.lines("scontrol") == []


@pytest.mark.parametrize(
    ("trainer_code", "starts", "message"),
    [
        (0, 1, "run.sbatch: done"),
        (2, 2, "run.sbatch: wrong input"),
        (4, 1, "run.sbatch: a loss or gradient was not finite"),
        (5, 2, "run.sbatch: a rank stalled"),
        (7, 2, "run.sbatch: the run failed (exit code 7); the ranks' messages are in runs/logs/recipe-"),
    ],
)
def test_exit_codes(cluster: Cluster, trainer_code: int, starts: int, message: str) -> None:
    """Each is the job's own; no requeue; a restart only where it may help, and at most MAX_RESTARTS=1."""
    code, output = cluster.run("config.yaml", TRAINER_CODE=str(trainer_code))
    assert code == trainer_code, output
    assert message in output
    assert len(cluster.lines("starts_0")) == starts
    assert cluster.lines("scontrol") == []


@pytest.mark.parametrize("script", ["run.sbatch", "run.sh"])
@pytest.mark.parametrize("late", ["0", "1"])
def test_the_reason_is_the_last_line_once_and_the_exit_code_its_own_whichever_rank_is_late(
    cluster: Cluster, script: str, late: str
) -> None:
    """Also after the restart that a wrong input does not deserve, which torchrun cannot know."""
    restarts = "1" if script == "run.sbatch" else "0"
    variables = {"GPUS_PER_NODE": "2", "TRAINER_CODE": "2", "LATE_RANK": late, "MAX_RESTARTS": restarts}
    code, output = cluster.run("config.yaml", script=script, **variables, REASON="data.original is wrong")
    assert code == 2, output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert lines == ["error: data.original is wrong"] == output.splitlines()[-1:], output
    assert "traceback : data.original is wrong" in output


def test_the_script_for_sbatch_hands_on_its_arguments(cluster: Cluster) -> None:
    code, output = cluster.run("a.yaml", "data.system_prompt=a b", script="run.sbatch", TRAINER_CODE="0")
    assert code == 0, output
    assert cluster.lines("starts_0") == ["--config a.yaml run.auto_resume=true data.system_prompt=a b"]
    code, output = cluster.run(script="run.sbatch")
    assert code != 0 and "CONFIG is missing" in output


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("examples/gpu/qwen2.5_3b.yaml", "qwen2.5_3b"),
        ("examples/quickstart/config.yaml", "quickstart"),
        ("my.yaml", "my"),
        ("config.yaml", "config"),
    ],
)
def test_logs_are_called_after_the_configuration(cluster: Cluster, config: str, name: str) -> None:
    code, output = cluster.run(config, script="run.sh", TRAINER_CODE="0")
    assert code == 0, output
    [log] = (cluster.folder / f"runs/logs/{name}/node_0").rglob("stdout.log")
    assert log.is_file()


def test_crash_restarts(cluster: Cluster) -> None:
    code, output = cluster.run("config.yaml", TRAINER_CODE="1", CRASHES="once")
    assert code == 0, output
    assert cluster.lines("starts_0") == ["--config config.yaml run.auto_resume=true"] * 2


def test_usr1_before_the_run_has_begun(cluster: Cluster) -> None:
    """Nothing was saved, so a requeue could go on like this for ever."""
    cluster.stub("srun", "#!/bin/bash\ntouch started\nexec sleep 60\n")
    job = cluster.start("config.yaml")
    cluster.wait_for(["started"], job)
    time.sleep(1)  # the trap is set right after the start
    job.send_signal(signal.SIGUSR1)
    code, output = finish(job)
    assert code == 128 + signal.SIGTERM
    assert "no checkpoint after USR1" in output
    assert cluster.lines("scontrol") == []


def test_missing_environment(cluster: Cluster) -> None:
    code, output = cluster.run("config.yaml", VENV="nowhere")
    assert code == 2
    assert "error: there is no virtual environment nowhere; set VENV=FOLDER or CONTAINER=IMAGE" in output
    assert cluster.lines("starts_0") == []


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ("image.sif", "apptainer exec --nv --bind {folder} --pwd {folder} image.sif bash"),
        (
            "image.sqsh",
            "--container-image image.sqsh --container-mounts {folder}:{folder} --container-workdir {folder} "
            "bash examples/gpu/run.sh config.yaml",
        ),
    ],
)
def test_containers(cluster: Cluster, container: str, expected: str) -> None:
    cluster.stub("srun", '#!/bin/bash\necho "srun $*"\n')
    code, output = cluster.run("config.yaml", CONTAINER=container)
    assert code == 0
    assert expected.format(folder=cluster.folder) in output
    assert "srun --nodes 1 --ntasks 1 --ntasks-per-node 1 --cpus-per-task 1 --cpu-bind none" in output


def test_arrays(cluster: Cluster) -> None:
    """What task 1 of 2 starts."""
    cluster.stub("srun", '#!/bin/bash\nshift 11\necho "$*"\n')
    code, output = cluster.run("q.parquet", "out", "model", "--attempts", "2", script="rephrase.sbatch")
    assert code == 0, output
    assert output.splitlines() == [
        "coreward shards cut q.parquet --part 1 --of 2 --output out/questions/shard_001.parquet",
        "torchrun --standalone --nproc-per-node gpu tools/rephrase_questions.py "
        "out/questions/shard_001.parquet --model model --output out/shard_001 --attempts 2",
    ]
    files = ("math500.json", "data/amc.test.jsonl")
    code, output = cluster.run("model", "out", *files, "--", "--samples", "4", script="evaluate.sbatch")
    assert code == 0, output
    assert output.splitlines() == [
        "torchrun --standalone --nproc-per-node gpu -m megatron_coreward.evaluate --model model "
        "--file data/amc.test.jsonl --output out/amc.test --samples 4"
    ]
    code, output = cluster.run("model", "out", "math500.json", script="evaluate.sbatch")
    assert code == 2
    assert "error: 1 files, but 2 array tasks; give sbatch --array 0-0" in output
