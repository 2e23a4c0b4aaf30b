"""How a run starts: the same on all ranks, alone in its folder, and from a checkpoint if it resumes."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from megatron_coreward.actor.checkpoint.folder import latest_checkpoint
from megatron_coreward.config.chat_template import template_text
from megatron_coreward.config.schema import Config
from megatron_coreward.roles import Communicator
from megatron_coreward.utils.distributed import TorchCommunicator, initialize, require_same
from megatron_coreward.utils.folders import FolderLock, errors_on_all_ranks
from megatron_coreward.utils.run_names import CHECKPOINTS
from megatron_coreward.utils.versions import versions

logger = logging.getLogger(__name__)

_OF_ONE_START = tuple(("run", key) for key in ("resume", "auto_resume", "output_dir", "profile_steps"))
_BEFORE = {("optimizer", "share_prompts"): False}
"""What was done before a key existed, where it was not its default."""
_ROUNDING = {("optimizer", "share_prompts"), ("optimizer", "micro_batch_tokens")}
"""Keys that change results by rounding only."""


def join(config: Config) -> Communicator:
    """Waits for the other ranks, which have then made the same checks, and compares what they run.

    Raises:
        ValueError: a rank has another configuration, which would hang in the others' collectives, or another
            version of a package.
    """
    initialize()
    comm = TorchCommunicator()
    keys = {f"{section}.{key}": v for section, keys in asdict(config).items() for key, v in keys.items()}
    require_same(comm, keys, "give all ranks the same --config and overrides")
    require_same(comm, versions(), "install the same packages on all nodes")
    return comm


def claim(output: Path, comm: Communicator) -> FolderLock | None:
    """Rank 0's hold on the run folder.

    Raises:
        ValueError: on every rank: another run is at work there.
    """
    with errors_on_all_ranks(comm):
        try:
            return FolderLock(output) if comm.rank == 0 else None
        except BlockingIOError as error:
            raise ValueError(f"run.output_dir: {error}. Wait for it, or choose another folder") from error


def resume_point(config: Config, comm: Communicator) -> Path | None:
    """The checkpoint to go on from; None for a new run. A collective.

    Raises:
        ValueError: `run.resume` without an intact checkpoint. Starting anew would overwrite the old figures.
    """
    if not (config.run.resume or config.run.auto_resume):
        return None
    folder = Path(config.run.output_dir) / CHECKPOINTS
    checkpoint = latest_checkpoint(folder, comm)
    if checkpoint is None and config.run.resume:
        raise ValueError(
            f"run.resume=true, but {folder} holds no intact checkpoint; start anew in another run.output_dir"
        )
    return checkpoint


def warn_of_changes(saved: dict[str, Any], config: Config, fingerprint: str) -> None:
    """Names what has changed since a checkpoint was saved; `saved` is its state.json.

    The keys that differ, and the file of a reward method of one's own; `fingerprint` is that of the file now,
    "" with a built-in method. A key that did not exist when the checkpoint was saved had its default, or what
    _BEFORE says.
    """
    defaults = asdict(Config())
    for section, keys in asdict(config).items():
        for key, value in keys.items():
            before = _BEFORE.get((section, key), defaults[section][key])
            old = saved["config"].get(section, {}).get(key, before)
            if old != value and (section, key) not in _OF_ONE_START:
                logger.warning(
                    "%s.%s is now %r; it was %r when the checkpoint was saved%s",
                    *(section, key, value, old),
                    " (results differ by rounding only)" if (section, key) in _ROUNDING else "",
                )
    before = saved["trainer"].get("reward_file", "")
    if before and fingerprint and before != fingerprint:
        logger.warning(
            "the file of reward.method=%s has changed: its fingerprint is %s; it was %s when the checkpoint "
            "was saved",
            *(config.reward.method, fingerprint, before),
        )


def at(folder: Path, config: Config) -> Config:
    """With the model's folder for a hub id, and the chat template's text for its file."""
    template = template_text(config.model.chat_template)
    return replace(config, model=replace(config.model, path=str(folder), chat_template=template))
