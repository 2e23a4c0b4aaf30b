"""The policy as a Hugging Face folder that transformers and vLLM load.

Weights are streamed: rank 0 holds at most one file's worth of them. Everything else (config, generation
config, tokenizer, chat template) is copied from the model the run started from; only the dtype in
config.json changes.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.utils.folders import errors_on_all_ranks, publish, temporary_name

SHARD_BYTES = 5 * 10**9
"""The largest file of weights; transformers' own limit was the same for years."""
CARRIED = ("*.json", "*.txt", "*.model", "*.jinja")
INDEX = "model.safetensors.index.json"


def export_hf(
    policy: MegatronPolicy, source_folder: Path, output: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes `output`; rank 0 writes, every rank takes part. It appears when it is complete.

    A model folder that is there already is replaced, anything else is refused.

    Raises:
        ValueError, OSError: on every rank; what was at `output` is intact.
    """
    new = temporary_name(output)
    is_writer = policy.comm.rank == 0
    with errors_on_all_ranks(policy.comm):
        if is_writer:
            _check(source_folder, output)
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
    writer = ShardWriter(new, shard_bytes)
    error: OSError | None = None
    dtype = ""
    for name, tensor in policy.export_weights(for_engine=False):
        dtype = str(tensor.dtype).removeprefix("torch.")
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
                writer.close()
                _carry(source_folder, new, dtype)
                publish(new, output)
            except OSError:
                shutil.rmtree(new, ignore_errors=True)
                raise


def _check(source: Path, output: Path) -> None:
    if not (source / "config.json").is_file():
        raise ValueError(f"{source} is no Hugging Face model folder: it has no config.json. Check model.path")
    if output.resolve() == source.resolve():
        raise ValueError(f"the export would replace its own source {source}; choose another output folder")
    if output.exists() and not (output / "config.json").is_file():
        raise ValueError(f"{output} exists and is no model folder; remove it or choose another output folder")


class ShardWriter:
    """Collects tensors and writes a safetensors file whenever the next one would exceed the limit.

    A tensor larger than the limit gets a file of its own. The files get their final names in `close`,
    when their number is known.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self.shards: list[list[str]] = []
        self.total_bytes = 0
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Raises OSError."""
        if self._pending and self._pending_bytes + tensor.nbytes > self.shard_bytes:
            self._write()
        # A copy: the tensor may be a view of a whole bucket, or live on the GPU.
        self._pending[name] = tensor.detach().to("cpu", copy=True).contiguous()
        self._pending_bytes += tensor.nbytes

    def close(self) -> None:
        """Writes what is left, and the index if there is more than one file. Raises OSError."""
        self._write()
        count = len(self.shards)
        weight_map: dict[str, str] = {}
        for i, names in enumerate(self.shards):
            file = f"model-{i + 1:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
            self._part(i).rename(self.folder / file)
            weight_map.update(dict.fromkeys(names, file))
        if count > 1:
            index = {"metadata": {"total_size": self.total_bytes}, "weight_map": weight_map}
            (self.folder / INDEX).write_text(json.dumps(index, indent=2))

    def _part(self, index: int) -> Path:
        return self.folder / f"part-{index}.safetensors"

    def _write(self) -> None:
        path = self._part(len(self.shards))
        try:
            save_file(self._pending, path, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}. Free space there or export elsewhere") from error
        self.shards.append(list(self._pending))
        self.total_bytes += self._pending_bytes
        self._pending = {}
        self._pending_bytes = 0


def _carry(source: Path, new: Path, dtype: str) -> None:
    for pattern in CARRIED:
        for file in source.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copyfile(file, new / file.name)
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    key = "torch_dtype" if "torch_dtype" in config else "dtype"  # its name before transformers 5
    config[key] = dtype
    (new / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
