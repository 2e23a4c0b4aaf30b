"""Trains the quickstart's start model from scratch: about a million parameters, minutes on a laptop.

    torchrun --nproc-per-node 2 tools/make_toy_model.py --output runs/quickstart/toy_model

A Qwen3-architecture model (heads of 32, the smallest that vLLM's CPU attention takes) with its own tokenizer
learns arithmetic word problems (data/synthetic.py) by supervised training through the same Megatron actor
that Co-Reward uses, with the steps of `coreward sft`, until its sampled pass@1 on held-out problems lies
between --low and --high: good enough that majorities are mostly right, with room to improve. The result is a
Hugging Face folder.
"""

import argparse
import logging
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from megatron_coreward.config.schema import Config
from megatron_coreward.data import synthetic
from megatron_coreward.data.prompts import build_questions
from megatron_coreward.data.supervised import encode_examples
from megatron_coreward.doctor.toy_model import make_tokenizer, write_random_model
from megatron_coreward.evaluation.outcomes import evaluate
from megatron_coreward.grading.grader import Grader
from megatron_coreward.utils.distributed import TorchCommunicator, initialize, shutdown
from megatron_coreward.utils.logging import setup_logging
from megatron_coreward.weight_sync import sync_weights

logger = logging.getLogger("megatron_coreward.tools.make_toy_model")

WARMUP_UPDATES = 30
WORTH_CHECKING = 0.12
"""Loss in nats per token (a solution has about 15) from which on pass@1 is worth measuring."""


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
        self.tokenizer = make_tokenizer()
        stop_ids = [self.tokenizer.eos_token_id]
        self.engine = VllmEngine(config, config.model.path, stop_ids, config.run.seed)
        self.questions = build_questions(config, self.tokenizer)
        self.grader = Grader(config.reward.equality, config.reward.timeout_s, config.reward.workers)

    def update(self, step: int) -> float:
        """One supervised step on fresh examples; its loss in nats per response token."""
        examples = encode_examples(
            self.tokenizer,
            synthetic.supervised_examples(self.batch_size, seed=step),
            self.config.data.system_prompt,
            self.tokenizer.eos_token_id,
        )
        batch = [(example.prompt_ids, example.response_ids) for example in examples]
        return self._supervised_update(self.policy, batch).as_dict()["policy/loss"]

    def pass_at_1(self, step: int) -> float:
        """Share of right answers over sampled responses to held-out problems."""
        sync_weights(self.policy, self.engine, version=step)
        sampled = replace(self.config.evaluation, temperature=1.0)  # the exported model says the default
        config = replace(self.config, evaluation=sampled)
        scores = evaluate(self.engine, self.comm, self.questions, config, self.grader)
        return scores.metrics()["eval/pass@1"]

    def close(self) -> None:
        self.engine.close()


def toy_config(folder: Path, seed: int, lr: float) -> Config:
    config = Config()
    config.run.seed = seed
    config.model.path = str(folder)
    config.data.source = "synthetic"
    config.data.system_prompt = ""
    config.data.max_prompt_tokens = 96
    config.rollout.max_response_tokens = 32
    config.rollout.memory_gb = 0.5
    config.evaluation.limit = 250
    config.evaluation.samples = 2
    config.optimizer.lr = lr
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_ratio = 1.0  # linear warm-up over `total_updates`, constant afterwards
    config.optimizer.micro_batch_tokens = 8192
    return config


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--low", type=float, default=0.40, help="least sampled pass@1 of the result")
    parser.add_argument("--high", type=float, default=0.65, help="greatest sampled pass@1 of the result")
    parser.add_argument("--max-updates", type=int, default=1000)
    parser.add_argument("--check-every", type=int, default=10, help="updates between measurements")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    initialize()
    comm = TorchCommunicator()
    setup_logging(comm.rank)
    if options.output.exists():
        logger.error("%s exists already; remove it or choose another --output", options.output)
        return 2
    start = Path(comm.broadcast(tempfile.mkdtemp() if comm.rank == 0 else None))
    if comm.rank == 0:
        write_random_model(start, options.seed)
    comm.all_gather(None)
    trainer = SupervisedTrainer(
        toy_config(start, options.seed, options.lr), options.batch_size, WARMUP_UPDATES
    )
    passed = 0.0
    for step in range(1, options.max_updates + 1):
        loss = trainer.update(step)
        if step % 50 == 0:
            logger.info("update %d: loss %.3f nats per token", step, loss)
        worth_it = loss < WORTH_CHECKING and step % options.check_every == 0
        if worth_it or step == options.max_updates:
            passed = trainer.pass_at_1(step)
            logger.info("update %d: loss %.3f, sampled pass@1 %.3f", step, loss, passed)
            if passed >= options.low:
                break
    good = options.low <= passed <= options.high
    if good:
        from megatron_coreward.actor.export import export_hf

        export_hf(trainer.policy, start, options.output)
    else:
        logger.error(
            "sampled pass@1 is %.3f, not %.2f to %.2f: try another --seed or --check-every",
            *(passed, options.low, options.high),
        )
    comm.all_gather(None)
    if comm.rank == 0:
        shutil.rmtree(start)
    trainer.close()
    shutdown()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
