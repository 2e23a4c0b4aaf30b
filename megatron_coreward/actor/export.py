"""The policy as a Hugging Face folder that transformers and vLLM load.

Weights are streamed to disk: rank 0 holds at most a bucket of them. Everything else (config, generation
config, tokenizer, chat template) is copied from the model the run started from; only the dtype in
config.json changes, and the template is that of model.chat_template if there is one. coreward.json says how
the run asked the model.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.weights.hf_writer import (
    SHARD_BYTES,
    ShardWriter,
    carry_hf_files,
    plan_shards,
    write_index,
)
from megatron_coreward.config.run_settings import RunSettings
from megatron_coreward.utils.folders import errors_on_all_ranks, publish, temporary_name


def export_hf(
    policy: MegatronPolicy,
    source_folder: Path,
    output: Path,
    shard_bytes: int = SHARD_BYTES,
    stop_ids: Sequence[int] = (),
) -> None:
    """Writes `output`; rank 0 writes, every rank takes part. It appears when it is complete.

    A model folder that is there already is replaced, anything else is refused. `stop_ids` are the tokens that
    ended the run's responses.

    Raises:
        ValueError, OSError: on every rank; what was at `output` is intact.
    """
    new = temporary_name(output)
    is_writer = policy.comm.rank == 0
    specs = policy.weight_specs()
    shards = plan_shards(specs, shard_bytes)
    with errors_on_all_ranks(policy.comm):
        if is_writer:
            _check(source_folder, output)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
    error: OSError | None = None
    with ShardWriter(new, shards) as writer:
        for name, tensor in policy.export_weights(for_engine=False):
            if is_writer and error is None:
                try:
                    writer.add(name, tensor)
                except OSError as raised:
                    error = raised  # kept until the stream, which is a collective, has ended
        with errors_on_all_ranks(policy.comm):
            if is_writer:
                try:
                    if error is not None:
                        raise error
                    writer.finish()
                    write_index(new, shards)
                    carry_hf_files(source_folder, new, specs[0].dtype, policy.config.model.chat_template)
                    RunSettings.of(policy.config, stop_ids).write(new)
                    publish(new, output)
                except OSError as raised:
                    shutil.rmtree(new, ignore_errors=True)
                    raise OSError(
                        f"cannot write {output}: {raised}. Free space there or export elsewhere"
                    ) from raised


def _check(source: Path, output: Path) -> None:
    if not (source / "config.json").is_file():
        raise ValueError(f"{source} is no Hugging Face model folder: it has no config.json. Check model.path")
    if output.resolve() == source.resolve():
        raise ValueError(f"the export would replace its own source {source}; choose another output folder")
    if output.exists() and not (output / "config.json").is_file():
        raise ValueError(f"{output} exists and is no model folder; remove it or choose another output folder")
