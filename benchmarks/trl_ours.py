"""Steps of our trainer, timed; one rank of a whole run, from `megatron_coreward.train`.

    torchrun --nproc-per-node 2 -m benchmarks.trl_ours SPEC.json

The run is an ordinary one of two data-parallel ranks, but for EOS, which vLLM is told to ignore, and for what
the spec's "changes" and "kv_block" say. trl_line.py writes the spec and reads what every rank leaves in the
spec's folder: the seconds of its steps and, if asked for, their floor and what holds the memory.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.generate import without_end
from benchmarks.memory import holdings
from benchmarks.step_floor import Floor
from megatron_coreward import train
from megatron_coreward.rollout import engine
from megatron_coreward.trainer import Trainer
from megatron_coreward.utils.replaced import replaced


def settings(spec: dict[str, Any]) -> list[str]:
    values = {
        "run.output_dir": f"{spec['folder']}/run",
        "run.steps": spec["steps"],
        "run.export_hf": "false",
        "model.path": spec["model"],
        "data.original": spec["data"],
        "data.question_column": "question",
        "data.rephrased_column": "rephrased",
        "data.batch_pairs": spec["questions"],
        "data.max_prompt_tokens": 192,
        "reward.method": "co_reward" if spec["views"] == "both" else "majority_voting",
        "rollout.samples": spec["samples"],
        "rollout.max_response_tokens": spec["new_tokens"],
        "rollout.memory_gb": 1.0,
        "rollout.temperature": 1.0,
        "algorithm.kl_coef": spec["kl_coef"],
        "algorithm.skip_no_signal": "false",  # equal rewards would make the update cheaper
        "optimizer.lr": spec["lr"],
        "optimizer.micro_batch_tokens": 2048,
        "checkpoint.every": 0,
        "evaluation.every": 0,
    }
    return [f"{key}={value}" for key, value in values.items()] + spec["changes"]


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text())
    steps: list[dict[str, float]] = []
    step, floor = Trainer.train_step, Floor()

    def timed(trainer: Trainer) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = step(trainer)
        measured = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        if spec["holdings"]:
            measured |= holdings(trainer, result[0].metrics)
        if spec["floor"]:
            measured |= floor.measure(trainer)
        steps.append(measured)
        lengths = {len(response.response_ids) for response in result[2]}
        assert lengths == {spec["new_tokens"]}, f"responses of {lengths} tokens"
        return result

    block = spec["kv_block"] or engine.CPU_KV_BLOCK
    with (
        replaced(Trainer, train_step=timed),
        without_end(),
        replaced(engine, CPU_KV_BLOCK=block),
        floor.noting(),
    ):
        code = train.main(spec.get("arguments") or settings(spec))
    (Path(spec["folder"]) / f"rank{os.environ['RANK']}.json").write_text(json.dumps(steps))
    return code


if __name__ == "__main__":
    sys.exit(main())
