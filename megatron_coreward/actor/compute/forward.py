"""Micro-batches through the pipeline schedule: log-probs, or the loss and its gradient.

Megatron's scaling is undone here. The loss of a micro-batch is a plain sum of tokens with fixed global
weights, so nothing may divide it:
- `calculate_per_token_loss=True` (model/build.py) stops DDP from averaging over data-parallel ranks
  (distributed_data_parallel.py, gradient_scaling_factor) and the schedule from dividing by the number of
  micro-batches (schedules.py, forward_step_calc_loss);
- `_sum_gradients` below passes no token count to `finalize_model_grads`, which would divide by it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.enums import Fp8Recipe
from megatron.core.fp8_utils import get_fp8_align_size
from megatron.core.models.gpt import GPTModel
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_coreward.actor.compute.grouping import Size, plan_micro_batches
from megatron_coreward.actor.compute.packing import MicroBatch, pack, upload
from megatron_coreward.actor.compute.token_stats import TokenStats, VocabularyShard, token_stats
from megatron_coreward.actor.device import actor_device, compute_device
from megatron_coreward.actor.model.precision import deterministic_algorithms
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.algorithm.objective import Objective
from megatron_coreward.algorithm.token_figures import TokenFigures, settled
from megatron_coreward.config.learning import OptimizerConfig
from megatron_coreward.utils.metrics import Figures


class PackedForward:
    """Runs one model (with or without DDP) over packed micro-batches."""

    def __init__(
        self,
        model: GPTModel | DistributedDataParallel,
        layout: Layout,
        vocab: int,
        temperature: float,
        optimizer: OptimizerConfig,
    ) -> None:
        self.model = model
        self.layout = layout
        self.vocab = vocab
        self.temperature = temperature
        self.budget, self.share_prompts = optimizer.micro_batch_tokens, optimizer.share_prompts
        module: GPTModel = model.module if isinstance(model, DistributedDataParallel) else model
        module.config.finalize_model_grads_func = _sum_gradients
        self.megatron: TransformerConfig = module.config
        self._module = module
        self._selected_rows: torch.Tensor | None = None
        if layout.is_last_stage:
            # The model ends before its head: token_stats takes the head's product in chunks. The module is
            # still called, because DDP's hooks wait there for the head's weight.
            module.output_layer.forward = self._select_rows

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Float32 [T] on the CPU, on every rank of the model-parallel group, in the batch's order."""
        return self._per_token(batch, ("logps",)).flatten()

    def confidence(self, batch: TrainBatch) -> torch.Tensor:
        """As log_probs, [T, 2]: self-certainty and entropy."""
        return self._per_token(batch, ("self_certainty", "entropy"))

    def _per_token(self, batch: TrainBatch, names: tuple[str, ...]) -> torch.Tensor:
        """The named fields of TokenStats, [T, len(names)]."""
        micro_batches = self._micro_batches(batch)
        outputs = self._run(micro_batches, partial(self._only_stats, names), forward_only=True)
        lengths_R = batch.response_lengths_R.tolist()
        pieces: list[torch.Tensor] = [torch.empty(n, len(names)) for n in lengths_R]
        if outputs:  # on the last stage; one copy from the device for all of them
            order = [index for micro_batch in micro_batches for index in micro_batch.indices]
            values = torch.cat(outputs).cpu().split([lengths_R[index] for index in order])
            for index, piece in zip(order, values, strict=True):
                pieces[index] = piece
        return self._from_last_stage(torch.cat([*pieces, torch.empty(0, len(names))]))

    def gradients(self, batch: TrainBatch, objective: Objective) -> Figures:
        """Adds the loss's gradient, summed over all ranks, to the gradient buffers.

        Returns this rank's figures: those of its own tokens on one rank of the last stage, none elsewhere.
        """
        micro_batches = self._micro_batches(batch)
        figures = settled(self._run(micro_batches, partial(self._loss, objective), forward_only=False))
        return figures if self.layout.tp_rank == 0 else Figures()

    def _micro_batches(self, batch: TrainBatch) -> list[MicroBatch]:
        multiple = token_multiple(self.megatron)
        lengths = batch.prompts_R, batch.prompt_lengths_R, batch.response_lengths_R
        sizes = [Size(*values) for values in zip(*(x.tolist() for x in lengths), strict=True)]
        plan = plan_micro_batches(sizes, self.budget, self.share_prompts)
        plan += [[]] * (self._most(len(plan)) - len(plan))
        return upload([pack(batch, parts, multiple) for parts in plan], compute_device())

    def _most(self, count: int) -> int:
        """The largest number of micro-batches among the ranks that exchange tokens with this one's experts.

        They meet in every layer of every micro-batch, so whoever has fewer takes part with empty ones.
        """
        if self.layout.ep_size == 1:
            return count
        most = torch.tensor(count, device=compute_device())
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group=self.layout.ep_group)
        return int(most)

    def _run(self, micro_batches: list[MicroBatch], on_hidden: Callable, forward_only: bool) -> list[Any]:
        with actor_device(), deterministic_algorithms(self.megatron.deterministic_mode):
            return get_forward_backward_func()(
                forward_step_func=partial(self._step, on_hidden),
                data_iterator=iter(micro_batches),
                model=[self.model],
                num_microbatches=len(micro_batches),
                seq_length=max(mb.tokens_1N.shape[1] for mb in micro_batches),
                micro_batch_size=1,
                forward_only=forward_only,
                collect_non_loss_data=forward_only,
            )

    def _step(
        self, on_hidden: Callable, micro_batches: Iterator[MicroBatch], model: torch.nn.Module
    ) -> tuple[torch.Tensor, Callable]:
        micro_batch = next(micro_batches)
        self._selected_rows = micro_batch.rows_T
        output = model(
            input_ids=micro_batch.tokens_1N,
            position_ids=None,  # the packed row has them
            attention_mask=None,
            packed_seq_params=micro_batch.packed,
        )
        return output, partial(on_hidden, micro_batch)

    def _select_rows(self, hidden: torch.Tensor, **unused: object) -> tuple[torch.Tensor, None]:
        """In the head's place: the hidden states that predict response tokens, [T, 1, h]."""
        if self.layout.sequence_parallel:
            hidden = tensor_parallel.gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=False
            )
        assert self._selected_rows is not None, "no micro-batch is under way"
        return hidden.index_select(0, self._selected_rows), None

    def _stats(self, micro_batch: MicroBatch, hidden: torch.Tensor, *, measured: bool) -> TokenStats:
        tied, head = self._module.share_embeddings_and_output_weights, self._module.output_layer
        weight = self._module.shared_embedding_or_output_weight() if tied else head.weight
        width = len(weight)
        shard = VocabularyShard(self.layout.tp_rank * width, width, self.vocab, self.layout.tp_group)
        hidden_Th = hidden.flatten(0, -2)
        targets_T = micro_batch.targets_T
        return token_stats(hidden_Th, weight, targets_T, shard, self.temperature, measured=measured)

    def _only_stats(
        self,
        names: tuple[str, ...],
        micro_batch: MicroBatch,
        hidden: torch.Tensor,
        non_loss_data: bool,
    ) -> torch.Tensor:
        assert non_loss_data, "called by the schedule for data, not for a loss"
        stats = self._stats(micro_batch, hidden, measured=names != ("logps",))._asdict()
        return torch.stack([stats[name] for name in names], dim=-1)

    def _loss(
        self, objective: Objective, micro_batch: MicroBatch, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, TokenFigures]:
        stats = self._stats(micro_batch, hidden, measured=True)
        assert stats.entropy is not None and stats.self_certainty is not None, "measured"
        loss, figures = objective(stats.logps, micro_batch.batch)
        figures.add_mean("policy/entropy", stats.entropy.sum(), len(stats.entropy))
        figures.add_mean("policy/self_certainty", stats.self_certainty.sum(), len(stats.logps))
        return loss, torch.zeros([], dtype=torch.int), figures

    def _from_last_stage(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sends the last stage's values, which no other stage has, to all stages."""
        if self.layout.pp_size == 1:
            return tensor
        tensor = tensor.to(compute_device())
        source = self.layout.pp_global_rank(self.layout.pp_size - 1)
        torch.distributed.broadcast(tensor, source, group=self.layout.pp_group)
        return tensor.cpu()


def token_multiple(config: TransformerConfig) -> int:
    """Tokens of a micro-batch are a multiple of it: equal parts under sequence parallelism, fit for FP8."""
    parts = config.tensor_model_parallel_size if config.sequence_parallel else 1
    return parts * (get_fp8_align_size(Fp8Recipe(config.fp8_recipe)) if config.fp8 else 1)


def _sum_gradients(
    model: list[torch.nn.Module], num_tokens: torch.Tensor | None = None, **kwargs: Any
) -> None:
    """Megatron's reduction of gradients over DP, TP and tied embeddings, without a division."""
    finalize_model_grads(model, num_tokens=None, **kwargs)
