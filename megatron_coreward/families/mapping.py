"""How a family's Hugging Face tensors and Megatron's parameters relate. Imports no torch.

A family (llama.py, qwen2.py, ...) is one file: the flags of its architecture and a table of `Mapping`s. The
checks before a run and the planner read the flags; loading, exporting, converting and weight sync read the
table. What a kind does with tensors is in actor/weights/kinds.py.
"""

from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass, field


class Replicated:
    """The same on every TP rank: norms."""

    sharded = False


@dataclass(frozen=True)
class Split:
    """Cut along one dimension: 0 for column-parallel weights and biases, 1 for row-parallel weights."""

    dim: int
    sharded = True


class Vocabulary:
    """Embedding and head: rows padded with zeros to a multiple of TP, then cut along the rows."""

    sharded = True


class FusedQKV:
    """q, k, v (weights or biases) -> Megatron's order: per key/value head its query heads, then k, then v.

    Cut evenly, wherever the cuts fall: with fewer key/value heads than TP ranks they fall inside a key/value
    head's group, and Megatron gathers the outputs of all ranks before it takes heads from them.
    """

    sharded = True


class GatedMLP:
    """gate and up projections: each rank holds its part of gate, then its part of up."""

    sharded = True


class ExpertGatedMLP:
    """gate and up projections of one expert, which is whole on its expert-parallel rank.

    vLLM divides them over its tensor-parallel ranks along `engine_dim`.
    """

    sharded = False
    engine_dim = 0


class ExpertDown:
    """The down projection of one expert, whole as well."""

    sharded = False
    engine_dim = 1


Kind = Replicated | Split | Vocabulary | FusedQKV | GatedMLP | ExpertGatedMLP | ExpertDown
"""How Hugging Face tensors and the TP shards of one Megatron parameter relate.

`sharded` is False where every TP rank holds the same whole tensor."""


@dataclass(frozen=True)
class Mapping:
    """One Megatron parameter and the Hugging Face tensors it is made of.

    `{layer}` and `{expert}` are numbers: in the whole model on the side of Hugging Face, on this rank on
    Megatron's.
    """

    megatron: str
    hf: tuple[str, ...]
    kind: Kind
    grouped: str | None = None
    """An expert's parameter in Transformer Engine's grouped modules, which hold `weight0`, `weight1`, ..."""

    @property
    def of_expert(self) -> bool:
        return "{expert}" in self.megatron


@dataclass(frozen=True)
class Family:
    """One model family: its architecture's fixed features and its table."""

    architecture: str
    """Its name in config.json."""
    mappings: tuple[Mapping, ...]
    max_positions: int
    """`max_position_embeddings` where config.json has none, as transformers fills it in."""
    head_dim: int | None = None
    """`head_dim` where config.json has none; None: hidden size / heads."""
    kv_heads_are_heads: bool = False
    """config.json may leave `num_key_value_heads` out and mean as many as query heads."""
    qkv_bias: bool = False
    """A bias on q, k and v."""
    qk_norm: bool = False
    """A norm on every query and key head."""
    experts: bool = False
    """A Mixture of Experts in place of every MLP."""
    required: ReadOnlyDict[str, object] = field(default_factory=dict)
    """Settings that config.json must have, with these values: the actor computes no others."""

    @property
    def embedding(self) -> str:
        """The embedding's name in a Hugging Face folder."""
        return self._hf_name("embedding.word_embeddings.weight")

    @property
    def head(self) -> str:
        """The head's name there; a tied model's folder need not have it."""
        return self._hf_name("output_layer.weight")

    def _hf_name(self, megatron: str) -> str:
        return next(mapping.hf[0] for mapping in self.mappings if mapping.megatron == megatron)
