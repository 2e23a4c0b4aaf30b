"""Stand-ins for Transformer Engine's modules where it is not installed, and the functions that use them.

A stand-in takes exactly the arguments of its class (test_precision.py compares them with Megatron-Core's
source) and computes what our local module does. So everything about a model in `transformer_engine` is tested
except Transformer Engine itself: the arguments of its modules and their calls, and the names of parameters.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.module import MegatronModule

from megatron_coreward.actor import parallel
from megatron_coreward.actor.device import compute_device
from megatron_coreward.actor.model import layers as layer_spec
from megatron_coreward.actor.model.attention import RMSNorm, sdpa
from megatron_coreward.actor.model.packed_row import Sequences
from megatron_coreward.actor.saver import load_checkpoint
from megatron_coreward.config.schema import Fp8Config, ParallelConfig
from megatron_coreward.types import WeightedResponse
from tests.distributed.actor.actor_runs import random_responses
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


STAND_INS = (TENorm, TEColumnParallelLinear, TERowParallelLinear, TEDotProductAttention)
ENGINE = SimpleNamespace(HAVE_TE=True, **{standin.__name__: standin for standin in STAND_INS})


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


def both_modules(rank: int, model: Path, folder: Path, fp8: Fp8Config) -> list[Outcome]:
    """Local modules, then stand-ins; each resumes from the other's checkpoint."""
    config = config_of(model, ParallelConfig(tensor=2, sequence=True))
    engine = replace(config, model=replace(config.model, transformer_impl="transformer_engine"), fp8=fp8)
    engine.model.deterministic = True
    held = [WeightedResponse(r) for r in random_responses(7, pairs=2, samples=2, vocab=VOCAB)]
    outcomes = []
    with mock.patch.object(layer_spec, "te", ENGINE):
        for one, other in ((config, engine), (engine, config)):
            seen.clear()
            policy = make_policy(one)
            log_probs = policy.log_probs(policy.shard(held))
            train(policy, 1)
            path = save(folder / one.model.transformer_impl, policy, 1)
            train(policy, 2)
            packed, deterministic = [p for p, _ in seen], {d for _, d in seen}
            names = [name for name, _ in policy.model.module.named_parameters()]
            trained = snapshot(policy)
            parallel.destroy()
            resumed = make_policy(other)
            assert load_checkpoint(path, resumed) == TRAINER
            train(resumed, 2)
            outcomes.append(Outcome(names, log_probs, trained, snapshot(resumed), packed, deterministic))
            parallel.destroy()
    return outcomes
