"""A checkpoint as the Hugging Face folder that vLLM reads, for as long as it is needed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_coreward.actor.checkpoint.folder import HF_FILES
from megatron_coreward.roles import Communicator
from megatron_coreward.utils.folders import errors_on_all_ranks


def config_folder(checkpoint: Path) -> Path:
    """The folder of a checkpoint's config and tokenizer. Raises ValueError if it is not complete."""
    from megatron_coreward.actor.checkpoint.inspect import open_checkpoint  # needs torch

    open_checkpoint(checkpoint)
    return checkpoint / HF_FILES


@contextmanager
def exported(checkpoint: Path, scratch: Path | None, comm: Communicator) -> Iterator[Path]:
    """The checkpoint of any layout as a Hugging Face folder, which is removed after the body. A collective.

    All ranks write it and read it, so on several nodes `scratch`, the folder to make it in, has to be shared.
    None is the system's temporary folder.

    Raises:
        ValueError, OSError: on every rank: the checkpoint is damaged, or there is no room.
    """
    from megatron_coreward.actor import parallel
    from megatron_coreward.actor.convert.convert import megatron_to_hf

    made = None
    with errors_on_all_ranks(comm):
        if comm.rank == 0:
            made = Path(tempfile.mkdtemp(prefix="megatron_coreward_", dir=scratch))
    folder = comm.broadcast(made)
    try:
        exported_to = megatron_to_hf(checkpoint, folder / HF_FILES, comm).output
        parallel.destroy()  # vLLM makes groups of its own
        yield exported_to
        comm.all_gather(None)  # until every rank has read it
    finally:
        if comm.rank == 0:
            shutil.rmtree(folder)
