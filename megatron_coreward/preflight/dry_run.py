"""The output of `--dry-run`: the resolved configuration and the cost of the run. Builds nothing."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_coreward.config.loading import to_yaml
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.precision import resolve_dtype
from megatron_coreward.config.schema import Config
from megatron_coreward.preflight.costs import (
    GIB,
    MIB,
    BatchArithmetic,
    batch_arithmetic,
    count_parameters,
    count_parameters_per_rank,
    disk,
    kv_cache_tokens,
    memory_per_rank,
    planned_pairs,
)
from megatron_coreward.preflight.files import free_space


def show(
    config: Config,
    shape: ModelShape | None,
    world_size: int,
    console: Console | None = None,
    *,
    pairs: int = 0,
    unread: str = "",
) -> None:
    """Prints configuration, batch arithmetic, memory and disk of a validated configuration.

    Args:
        shape: of a model that was read; without it neither memory nor disk are shown.
        pairs: that were read; 0 plans with those of the configuration's sizes.
        unread: a line about what was not read.
    """
    console = console or Console()
    batch = batch_arithmetic(config, world_size, pairs or planned_pairs(config))
    console.print("Configuration", style="bold")
    console.print(to_yaml(config), markup=False, highlight=False)
    console.print(_batch_table(config, batch))
    if shape is not None:
        _show_model(config, shape, batch, console)
    console.print(f"Free on that disk: {_size(free_space(Path(config.run.output_dir)))}")
    if unread:
        console.print(f"Dry run: {unread}", style="yellow", markup=False, soft_wrap=True)
    console.print("Dry run: the configuration is valid, nothing was built.", style="green")


def _show_model(config: Config, shape: ModelShape, batch: BatchArithmetic, console: Console) -> None:
    console.print(_model_table(config, shape))
    # The device is unknown here (no torch), so with dtype=auto both possibilities are shown.
    dtypes = list(dict.fromkeys(resolve_dtype(config.model.dtype, on_gpu=gpu) for gpu in (False, True)))
    ranks = batch.data_parallel
    memory = {dtype: memory_per_rank(config, shape, dtype, data_parallel=ranks) for dtype in dtypes}
    console.print(_bytes_table("Memory per rank (no activations)", memory, with_sum=True))
    for dtype in dtypes:
        console.print(f"KV cache ({dtype}): {kv_cache_tokens(config, shape, dtype):,} tokens a replica")
    usage = {dtype: disk(config, shape, batch, dtype) for dtype in dtypes}
    console.print(_bytes_table("Disk", usage, with_sum=False))


def _batch_table(config: Config, batch: BatchArithmetic) -> Table:
    samples, drawn = config.rollout.samples, config.rollout.drawn
    questions = f"{batch.pairs} pairs x {batch.views} view{'s' if batch.views > 1 else ''}"
    budget = config.optimizer.micro_batch_tokens
    table = Table(title="Batch", show_header=False, title_justify="left")
    rows = {
        "responses drawn": f"{questions} x {drawn} samples = {batch.drawn:,}",
        "responses trained on": f"{questions} x {samples} samples = {batch.responses:,}",
        "per data-parallel rank": f"{batch.responses:,} / {batch.data_parallel} = {batch.per_rank:,}",
        "per rollout replica": f"{batch.drawn:,} / {batch.replicas} = {batch.per_replica:,}",
        "tokens per response": f"at most {batch.tokens_per_response:,} with its prompt",
        "micro-batches per rank": f"at most {batch.micro_batches:,} of {budget:,} tokens",
        "steps per epoch": f"{batch.pairs_in_data:,} pairs / {batch.pairs} = {batch.steps_per_epoch:,}",
        "steps": f"{batch.steps:,} rollout batches, {batch.optimizer_steps:,} optimizer steps",
    }
    if batch.by_teacher:
        rows["drawn by the teacher"] = f"{batch.by_teacher:,}"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _model_table(config: Config, shape: ModelShape) -> Table:
    parallel = config.parallel
    own = count_parameters_per_rank(shape, parallel.tensor, parallel.pipeline, parallel.expert)
    table = Table(title="Model", show_header=False, title_justify="left")
    table.add_row("architecture", shape.architecture)
    table.add_row("folder", str(shape.folder))
    table.add_row("parameters", f"{count_parameters(shape):,}")
    layout = f"tensor {parallel.tensor} x pipeline {parallel.pipeline}"
    if shape.experts:
        layout += f", experts over {parallel.expert}"
    table.add_row("parameters per rank", f"{own:,} ({layout}, fullest stage)")
    return table


def _bytes_table(title: str, columns: Mapping[str, Mapping[str, int]], *, with_sum: bool) -> Table:
    table = Table("", *columns, title=title, title_justify="left")
    parts = next(iter(columns.values()))
    for part in parts:
        table.add_row(part, *(_size(sizes[part]) for sizes in columns.values()))
    if with_sum:
        table.add_row("sum", *(_size(sum(sizes.values())) for sizes in columns.values()), style="bold")
    return table


def _size(num_bytes: int) -> str:
    if num_bytes < GIB / 10:
        return f"{num_bytes / MIB:.1f} MiB"
    return f"{num_bytes / GIB:.1f} GiB"
