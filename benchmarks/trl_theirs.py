"""Steps of TRL's GRPOTrainer, timed; one rank. Runs in the environment of requirements/bench-trl.txt.

    python benchmarks/trl_theirs.py SPEC.json

trl_line.py writes the spec and reads the seconds that every rank leaves in the spec's folder. It imports
nothing of this repository. EOS is ignored by min_new_tokens. Memory is limited to this rank's share of what
is available, so that a batch that does not fit ends in an error, and not the machine; the rank then leaves a
file "out_of_memory" there, which no other error does.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

MEMORY_IS_SHORT = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory")
"""In the messages of torch's RuntimeError on a CPU."""


class Timer(TrainerCallback):
    """Wall and CPU seconds of every optimizer step, from before the rollouts to after the update."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        self.steps.append({"wall_s": wall, "cpu_s": cpu})


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    share = psutil.virtual_memory().available // ranks  # MemAvailable of /proc/meminfo
    resource.setrlimit(resource.RLIMIT_DATA, (share, share))
    torch.set_num_threads(spec["threads"])
    tokenizer = AutoTokenizer.from_pretrained(spec["model"])
    for text, ids in zip(spec["texts"], spec["prompts"], strict=True):
        if tokenizer(text=text)["input_ids"] != ids:
            raise ValueError(f"TRL's tokens of this prompt are not the same: {text}")

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        if {len(ids) for ids in completion_ids} != {spec["new_tokens"]}:
            raise ValueError(f"not every response has {spec['new_tokens']} tokens")
        return [float(number % 2) for number in range(len(completion_ids))]

    responses, timer = len(spec["prompts"]) * spec["samples"], Timer()
    trainer = GRPOTrainer(
        model=spec["model"],
        reward_funcs=reward,
        train_dataset=Dataset.from_dict({"prompt": spec["texts"]}),
        processing_class=tokenizer,
        callbacks=[timer],
        args=GRPOConfig(
            output_dir=spec["folder"],
            max_steps=spec["steps"],
            per_device_train_batch_size=spec["batch"],
            gradient_accumulation_steps=responses // (spec["batch"] * ranks),
            num_generations=spec["samples"],
            max_completion_length=spec["new_tokens"],
            generation_kwargs={"min_new_tokens": spec["new_tokens"]},
            beta=spec["kl_coef"],
            learning_rate=spec["lr"],
            temperature=1.0,
            loss_type="grpo",
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": "float32"},
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=1,
        ),
    )
    try:
        trainer.train()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in MEMORY_IS_SHORT):
            (Path(spec["folder"]) / "out_of_memory").touch()
        raise
    file = Path(spec["folder"]) / f"rank{os.environ.get('RANK', 0)}.json"
    file.write_text(json.dumps(timer.steps))


if __name__ == "__main__":
    main()
