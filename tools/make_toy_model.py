"""Trains the start model of a synthetic task from scratch: about a million parameters, minutes on a laptop.

    torchrun --nproc-per-node 2 tools/make_toy_model.py --output runs/quickstart/toy_model
    torchrun --nproc-per-node 1 tools/make_toy_model.py --task wordings --output runs/wordings_model

A Qwen3-architecture model (heads of 32, the smallest that vLLM's CPU attention takes) with its own tokenizer
learns arithmetic word problems (data/synthetic.py, data/wordings.py) by supervised training through the same
Megatron actor that Co-Reward uses, with the steps of `coreward sft`, until the task's figures on held-out
problems lie in its TARGETS: good enough that majorities are mostly right, with room to improve. The result is
a Hugging Face folder.
"""

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from megatron_coreward.config.schema import Config
from megatron_coreward.data.prompts import build_questions
from megatron_coreward.data.supervised import encode_examples
from megatron_coreward.data.synthetic_tasks import TASKS
from megatron_coreward.data.wordings import HARD, PLAIN
from megatron_coreward.doctor.toy_model import make_tokenizer, write_random_model
from megatron_coreward.evaluation.outcomes import evaluate
from megatron_coreward.grading.grader import Grader
from megatron_coreward.utils.distributed import TorchCommunicator, initialize, shutdown
from megatron_coreward.utils.logging import setup_logging
from megatron_coreward.weight_sync import sync_weights

logger = logging.getLogger("megatron_coreward.tools.make_toy_model")

WARMUP_UPDATES = 30
WORTH_CHECKING = {"arithmetic": 0.12, "wordings": 0.13}
"""Loss in nats per token (a solution has about 15) from which on the figures are worth measuring."""
TARGETS = {
    "arithmetic": {"sampled pass@1": (0.40, 0.65)},
    "wordings": {f"{PLAIN} maj@8": (0.60, 0.80), f"{HARD} maj@8": (0.30, 0.40)},
}
"""Task -> figure -> its least and greatest value in the result."""


class SupervisedTrainer:
    """Supervised steps and sampled pass@1 for one toy model."""

    def __init__(self, config: Config, batch_size: int, warmup_updates: int) -> None:
        # Imported here, after setup_logging has silenced what Megatron says of Apex and Transformer Engine.
        from megatron_coreward.actor.parallel import initialize as initialize_parallel
        from megatron_coreward.actor.policy import MegatronPolicy
        from megatron_coreward.actor.supervised import supervised_update
        from megatron_coreward.rollout.engine import VllmEngine

        self._supervised_update = supervised_update
        self.config = config
        self.batch_size = batch_size
        self.comm = TorchCommunicator()
        layout = initialize_parallel(config.parallel)
        self.policy = MegatronPolicy(config, layout, self.comm, total_updates=warmup_updates)
        self.tokenizer = make_tokenizer(config.data.synthetic_task)
        stop_ids = [self.tokenizer.eos_token_id]
        self.engine = VllmEngine(config, config.model.path, stop_ids, config.run.seed)
        self.questions = build_questions(config, self.tokenizer)
        self.grader = Grader(config.reward.equality, config.reward.timeout_s, config.reward.workers)

    def update(self, step: int) -> float:
        """One supervised step on fresh examples; its loss in nats per response token."""
        examples = encode_examples(
            self.tokenizer,
            TASKS[self.config.data.synthetic_task].supervised_examples(self.batch_size, step),
            self.config.data.system_prompt,
            self.tokenizer.eos_token_id,
        )
        batch = [(example.prompt_ids, example.response_ids) for example in examples]
        return self._supervised_update(self.policy, batch).as_dict()["policy/loss"]

    def figures(self, step: int) -> dict[str, float]:
        """The figures of TARGETS, from sampled responses to held-out problems."""
        sync_weights(self.policy, self.engine, version=step)
        sampled = replace(self.config.evaluation, temperature=1.0)  # the exported model says the default
        config = replace(self.config, evaluation=sampled)
        scores = evaluate(self.engine, self.comm, self.questions, config, self.grader)
        if self.config.data.synthetic_task == "arithmetic":
            return {"sampled pass@1": scores.metrics()["eval/pass@1"]}
        [voted_Q] = scores.majorities[8]
        levels = np.array([question.level for question in self.questions])
        return {f"{level} maj@8": float(voted_Q[levels == level].mean()) for level in (PLAIN, HARD)}

    def close(self) -> None:
        self.engine.close()


def toy_config(folder: Path, task: Literal["arithmetic", "wordings"], seed: int, lr: float) -> Config:
    config = Config()
    config.run.seed = seed
    config.model.path = str(folder)
    config.data.source = "synthetic"
    config.data.synthetic_task = task
    config.data.system_prompt = ""
    config.data.max_prompt_tokens = 96
    config.rollout.max_response_tokens = 32
    config.rollout.memory_gb = 0.5
    config.evaluation.limit = 250
    config.evaluation.samples = 2
    if task == "wordings":  # every problem of the split in both wordings, and votes instead of responses
        config.evaluation.synthetic_split = "validation"
        config.evaluation.limit = 0
        config.evaluation.samples = 8
    config.optimizer.lr = lr
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_ratio = 1.0  # linear warm-up over `total_updates`, constant afterwards
    config.optimizer.micro_batch_tokens = 8192
    return config


def _shown(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--task", choices=sorted(TASKS), default="arithmetic", help="data.synthetic_task")
    parser.add_argument("--low", type=float, help="least value of each figure, in place of the task's")
    parser.add_argument("--high", type=float, help="greatest value of each figure, in place of the task's")
    parser.add_argument("--max-updates", type=int, default=1000)
    parser.add_argument("--check-every", type=int, default=10, help="updates between measurements")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    return make(options)


def make(options: argparse.Namespace) -> int:
    """Trains and writes the model; the exit code."""
    initialize()
    comm = TorchCommunicator()
    setup_logging(comm.rank)
    if options.output.exists():
        logger.error("%s exists already; remove it or choose another --output", options.output)
        return 2
    start = Path(comm.broadcast(tempfile.mkdtemp() if comm.rank == 0 else None))
    if comm.rank == 0:
        write_random_model(start, options.seed, options.task)
    comm.all_gather(None)
    trainer = SupervisedTrainer(
        toy_config(start, options.task, options.seed, options.lr), options.batch_size, WARMUP_UPDATES
    )
    targets = {
        name: (low if options.low is None else options.low, high if options.high is None else options.high)
        for name, (low, high) in TARGETS[options.task].items()
    }
    figures: dict[str, float] = {}
    for step in range(1, options.max_updates + 1):
        loss = trainer.update(step)
        if step % 50 == 0:
            logger.info("update %d: loss %.3f nats per token", step, loss)
        worth_it = loss < WORTH_CHECKING[options.task] and step % options.check_every == 0
        if worth_it or step == options.max_updates:
            figures = trainer.figures(step)
            logger.info("update %d: loss %.3f, %s", step, loss, _shown(figures))
            if all(figures[name] >= low for name, (low, _) in targets.items()):
                break
    good = all(low <= figures[name] <= high for name, (low, high) in targets.items())
    if good:
        from megatron_coreward.actor.export import export_hf

        export_hf(trainer.policy, start, options.output)
    else:
        logger.error(
            "%s, but wanted are %s: try another --seed or --check-every",
            _shown(figures),
            ", ".join(f"{name} {low:.2f} to {high:.2f}" for name, (low, high) in targets.items()),
        )
    comm.all_gather(None)
    if comm.rank == 0:
        shutil.rmtree(start)
    trainer.close()
    shutdown()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
