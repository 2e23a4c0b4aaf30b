"""Stand-ins for Transformer Engine's modules where it is not installed, and the functions that use them.

A stand-in takes exactly the arguments of its class (test_precision.py compares them with Megatron-Core's
source) and computes what our local module does. So everything about a model in `transformer_engine` is tested
except Transformer Engine itself: the arguments of its modules and their calls, and the names of parameters.
"""

import ast
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from megatron.core.extensions import transformer_engine
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.moe import moe_utils

from megatron_coreward.actor import parallel
from megatron_coreward.actor.device import compute_device
from megatron_coreward.actor.model import layers as layer_spec
from megatron_coreward.actor.model.attention import RMSNorm, sdpa
from megatron_coreward.actor.model.packed_row import Sequences
from megatron_coreward.actor.saver import load_checkpoint
from megatron_coreward.config.schema import Fp8Config, ParallelConfig
from megatron_coreward.types import WeightedResponse
from tests.distributed.actor.actor_runs import Case, Run, random_responses, walk
from tests.distributed.checkpoint.checkpoint_runs import (
    TRAINER,
    VOCAB,
    Tensors,
    config_of,
    make_policy,
    save,
    snapshot,
    train,
)
from tests.support.pretended.tensor import content_of

seen: list[tuple[PackedSeqParams, bool]] = []
"""What attention was called with: sequences, and whether only deterministic algorithms were allowed."""


class Norm(RMSNorm):
    """As the engine's it is made by `__new__` of TENorm, and has an extra state, which is empty."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        assert state.numel() == 0, "norms have no state"


class TENorm:
    def __new__(cls, config: Any, hidden_size: int, eps: float = 1e-5) -> Norm:  # type: ignore[misc]
        return Norm(config, hidden_size, eps).to(compute_device())  # the engine's are made on the device


class TEColumnParallelLinear(ColumnParallelLinear):
    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        config: Any,
        init_method: Any,
        gather_output: bool,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        skip_weight_param_allocation: bool = False,
        tp_comm_buffer_name: str | None = None,
        tp_group: Any = None,
        stride: int = 1,
    ) -> None:
        assert not gather_output and not skip_weight_param_allocation, "the engine refuses both"
        settings = {"config": config, "init_method": init_method, "gather_output": False, "bias": bias}
        settings |= {"skip_bias_add": skip_bias_add, "is_expert": is_expert, "tp_group": tp_group}
        super().__init__(input_size, output_size, **settings)


class TERowParallelLinear(RowParallelLinear):
    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        config: Any,
        init_method: Any,
        bias: bool,
        input_is_parallel: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str | None = None,
        tp_group: Any = None,
    ) -> None:
        assert input_is_parallel, "the engine refuses another"
        settings = {"config": config, "init_method": init_method, "input_is_parallel": True, "bias": bias}
        settings |= {"skip_bias_add": skip_bias_add, "is_expert": is_expert, "tp_group": tp_group}
        super().__init__(input_size, output_size, **settings)


class TEDotProductAttention(MegatronModule):
    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        k_channels: int | None = None,
        v_channels: int | None = None,
        num_splits: int | None = None,
        cp_comm_type: str | None = "p2p",
        pg_collection: Any = None,
    ) -> None:
        assert pg_collection is not None and softmax_scale is None, "as SelfAttention makes it"
        super().__init__(config=config)

    def forward(  # type: ignore[override]
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        attn_mask_type: Any,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
        num_splits: int | None = None,
    ) -> torch.Tensor:
        assert packed_seq_params is not None, "the actor feeds packed sequences only"
        seen.append((packed_seq_params, torch.are_deterministic_algorithms_enabled()))
        packed = packed_seq_params
        queries, keys = (content_of(x).diff().tolist() for x in (packed.cu_seqlens_q, packed.cu_seqlens_kv))
        sequences = Sequences(tuple(queries), tuple(keys), packed.cu_seqlens_q, packed.cu_seqlens_kv)
        causal = {"causal": queries == keys, "padding_causal_bottom_right": True}
        assert causal[attn_mask_type.name], "another mask aligns the first query with the first key"
        return sdpa(query, key, value, sequences, self.config.kv_channels**-0.5)


def _of_megatron(method: str) -> Any:
    """A method of Megatron's TEGroupedLinear, from its source: the class is not there without the engine."""
    spec = find_spec("megatron.core.extensions.transformer_engine")
    assert spec is not None and spec.origin, "Megatron-Core is installed"
    tree = ast.parse(Path(spec.origin).read_text())
    body = next(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "TEGroupedLinear").body
    node = next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == method)
    names = dict(vars(transformer_engine))
    exec(compile(ast.Module([node], []), spec.origin, "exec"), names)
    return names[method]


class _GroupedLinear(torch.nn.Module):
    """A weight for each expert; its checkpoints are written by Megatron's own code."""

    fp8 = fp8_calibration = use_bias = False
    fp8_meta = {"fp8_checkpoint": False}
    _split_extra_state = _of_megatron("_split_extra_state")
    _sharded_state_dict_grouped = _of_megatron("_sharded_state_dict_grouped")

    def __init__(self, sizes: tuple[int, int, int], config: Any, dim: int, pg_collection: Any) -> None:
        super().__init__()
        self.num_gemms, inputs, outputs = sizes
        self._pg_collection, self._tp_group, self._dim = pg_collection, pg_collection.expt_tp, dim
        for expert in range(self.num_gemms):
            values = torch.empty(outputs, inputs, dtype=config.params_dtype, device=compute_device())
            weight = torch.nn.Parameter(values)
            set_tensor_model_parallel_attributes(weight, is_parallel=True, dim=dim, stride=1)
            weight.allreduce = config.expert_model_parallel_size == 1  # type: ignore[attr-defined]
            self.register_parameter(f"weight{expert}", weight)

    def forward(self, x: torch.Tensor, m_splits: list[int]) -> tuple[torch.Tensor, None]:
        weights = [self.get_parameter(f"weight{expert}") for expert in range(self.num_gemms)]
        parts = zip(x.split(m_splits), weights, strict=True)
        return torch.cat([torch.nn.functional.linear(part, weight) for part, weight in parts]), None

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor | None) -> None:
        assert state is None or state.numel() == 0, "there is no FP8 here"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for expert in range(1, self.num_gemms):  # as TEGroupedLinear merges them
            state_dict.pop(f"{prefix}_extra_state{expert}", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        axes = {f"{expert}.weight": self._dim for expert in range(self.num_gemms)}
        return self._sharded_state_dict_grouped(axes, prefix, sharded_offsets, metadata)


class TEColumnParallelGroupedLinear(_GroupedLinear):
    def __init__(
        self,
        num_gemms: int,
        input_size: int,
        output_size: int,
        *,
        config: Any,
        init_method: Any,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        assert is_expert and not bias, "as the model's experts are made"
        super().__init__((num_gemms, input_size, output_size), config, 0, pg_collection)


class TERowParallelGroupedLinear(_GroupedLinear):
    def __init__(
        self,
        num_gemms: int,
        input_size: int,
        output_size: int,
        *,
        config: Any,
        init_method: Any,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str | None = None,
        pg_collection: Any = None,
    ) -> None:
        assert is_expert and not bias, "as the model's experts are made"
        super().__init__((num_gemms, input_size, output_size), config, 1, pg_collection)


STAND_INS = (
    TENorm,
    TEColumnParallelLinear,
    TERowParallelLinear,
    TEDotProductAttention,
    TEColumnParallelGroupedLinear,
    TERowParallelGroupedLinear,
)
ENGINE = SimpleNamespace(HAVE_TE=True, **{standin.__name__: standin for standin in STAND_INS})


def moe_permute_with_probs(
    inp: torch.Tensor, probs: torch.Tensor, routing_map: torch.Tensor, num_out_tokens: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert inp.is_cuda and probs.is_cuda and routing_map.is_cuda, "the engine needs CUDA"
    by_expert = routing_map.T.flatten().to(torch.int8).argsort(descending=True, stable=True)[:num_out_tokens]
    rows = by_expert % len(inp)
    return inp.index_select(0, rows), probs.T.flatten().index_select(0, by_expert), rows


def moe_permute(
    inp: torch.Tensor, routing_map: torch.Tensor, num_out_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    output, _, rows = moe_permute_with_probs(inp, routing_map, routing_map, num_out_tokens)
    return output, rows


def moe_unpermute(
    inp: torch.Tensor, row_id_map: torch.Tensor, merging_probs: None, restore_shape: torch.Size
) -> torch.Tensor:
    assert merging_probs is None, "the experts have applied them"
    return inp.new_zeros(restore_shape).index_add(0, row_id_map, inp)


def moe_sort_chunks_by_index_with_probs(
    inp: torch.Tensor, probs: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    assert inp.is_cuda and split_sizes.is_cuda and sorted_index.is_cuda, "the engine needs CUDA"
    place_of_chunk = sorted_index.argsort()
    places = place_of_chunk.repeat_interleave(split_sizes, output_size=len(inp))
    order = places.argsort(stable=True)
    return inp.index_select(0, order), probs.index_select(0, order)


def moe_sort_chunks_by_index(
    inp: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor
) -> torch.Tensor:
    return moe_sort_chunks_by_index_with_probs(inp, inp, split_sizes, sorted_index)[0]


PERMUTATION = {
    function.__name__.replace("moe", "fused"): function
    for function in (
        moe_permute,
        moe_permute_with_probs,
        moe_sort_chunks_by_index,
        moe_sort_chunks_by_index_with_probs,
        moe_unpermute,
    )
}
"""By their names in Megatron-Core. They read nothing back from the device, as the engine's do not."""


@contextlib.contextmanager
def engine_at_hand() -> Iterator[None]:
    """Modules and functions of the engine are their stand-ins."""
    in_router = {"HAVE_TE": True, "te_general_gemm": None, **PERMUTATION}
    with (
        mock.patch.object(layer_spec, "te", ENGINE),
        mock.patch.multiple(transformer_engine, **PERMUTATION),
        mock.patch.multiple(moe_utils, create=True, **in_router),
    ):
        yield


@dataclass(frozen=True)
class Outcome:
    """Of one rank, with one kind of modules."""

    names: list[str]
    log_probs: torch.Tensor
    trained: Tensors
    resumed: Tensors
    """The other modules, trained on to the same end from a checkpoint of these."""
    packed: list[PackedSeqParams]
    deterministic: set[bool]


def exported(policy: Any) -> Tensors:
    """The weights under Hugging Face names, which experts of both kinds share."""
    return {name: tensor.clone() for name, tensor in policy.export_weights(for_engine=False)}


def walk_with_engine(rank: int, cases: list[Case]) -> list[Run] | None:
    with engine_at_hand():
        return walk(rank, cases)


def both_modules(
    rank: int, model: Path, folder: Path, fp8: Fp8Config, layout: ParallelConfig, state_of: Any = snapshot
) -> list[Outcome]:
    """Local modules, then stand-ins; each resumes from the other's checkpoint."""
    config = config_of(model, layout)
    engine = replace(config, model=replace(config.model, transformer_impl="transformer_engine"), fp8=fp8)
    engine.model.deterministic = True
    held = [WeightedResponse(r) for r in random_responses(7, pairs=2, samples=2, vocab=VOCAB)]
    outcomes = []
    with engine_at_hand():
        for one, other in ((config, engine), (engine, config)):
            seen.clear()
            policy = make_policy(one)
            log_probs = policy.log_probs(policy.shard(held))
            train(policy, 1)
            path = save(folder / one.model.transformer_impl, policy, 1)
            train(policy, 2)
            packed, deterministic = [p for p, _ in seen], {d for _, d in seen}
            names = [name for name, _ in policy.model.module.named_parameters()]
            trained = state_of(policy)
            parallel.destroy()
            resumed = make_policy(other)
            assert load_checkpoint(path, resumed) == TRAINER
            train(resumed, 2)
            outcomes.append(Outcome(names, log_probs, trained, state_of(resumed), packed, deterministic))
            parallel.destroy()
    return outcomes
