"""The weights of a Hugging Face folder against its config.json, by its files' headers. Imports no torch.

Reading headers takes milliseconds, so a run refuses weights of another model before anything is built; the
actor and the conversion, which know Megatron's own shapes, refuse with the same words.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from megatron_coreward.config.hf_files import TensorInfo, some
from megatron_coreward.config.model_shape import ModelShape

WEIGHT_TYPES = ("F32", "BF16", "F16")
"""The types of plain weights by their names in safetensors."""
_BLOCK = 1 << 20


def expected_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """The folder's tensors by their names, without a tied model's head and those of unknown kinds."""
    expected: dict[str, tuple[int, ...]] = {}
    for mapping in shape.family.mappings:
        sizes = _sizes(mapping.megatron, shape)
        if (
            sizes is None
            or len(sizes) != len(mapping.hf)
            or (shape.tied and mapping.hf == (shape.family.head,))
        ):
            continue
        for layer in range(shape.layers) if "{layer}" in mapping.megatron else [None]:
            for expert in range(shape.experts) if mapping.of_expert else [None]:
                names = [name.format(layer=layer, expert=expert) for name in mapping.hf]
                expected |= dict(zip(names, sizes, strict=True))
    return expected


def _sizes(megatron: str, shape: ModelShape) -> list[tuple[int, ...]] | None:
    """Shapes of the tensors that one of Megatron's parameters is made of; None if it is unknown."""
    hidden, width = shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    known: dict[str, list[tuple[int, ...]]] = {
        "word_embeddings.weight": [(shape.vocab, hidden)],
        "output_layer.weight": [(shape.vocab, hidden)],
        "q_layernorm.weight": [(shape.head_dim,)],
        "k_layernorm.weight": [(shape.head_dim,)],
        "layernorm.weight": [(hidden,)],
        "linear_qkv.weight": [(queries, hidden), (keys, hidden), (keys, hidden)],
        "linear_qkv.bias": [(queries,), (keys,), (keys,)],
        "linear_proj.weight": [(hidden, queries)],
        "router.weight": [(shape.experts, hidden)],
        "linear_fc1.weight": [(width, hidden), (width, hidden)],
        "linear_fc2.weight": [(hidden, width)],
    }
    return next((sizes for ending, sizes in known.items() if megatron.endswith(ending)), None)


def check_shapes(tensors: Mapping[str, TensorInfo], given: str, wanted: Mapping[str, Sequence[int]]) -> None:
    """Raises ValueError unless every wanted tensor is there in its shape."""
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ValueError(f"{given} has no tensor {some(missing)}, which its architecture needs")
    wrong = [name for name, shape in wanted.items() if tensors[name].shape != tuple(shape)]
    if wrong:
        name = wrong[0]
        others = f" (and {len(wrong) - 1} other tensors)" if len(wrong) > 1 else ""
        raise ValueError(
            f"{name}{others} of {given} has shape {list(tensors[name].shape)} where config.json"
            f" asks for {list(wanted[name])}; weights and config.json belong to different models"
        )


def check_type(name: str, tensor: TensorInfo, given: str) -> None:
    """Raises ValueError for a tensor that holds no plain weights, such as a quantised one."""
    if tensor.dtype not in WEIGHT_TYPES:
        raise ValueError(
            f"{name} of {given} is of type {tensor.dtype}; weights may be {', '.join(WEIGHT_TYPES)}. "
            "Quantised models are not supported: take the model they were made from"
        )


def extra_tensors(names: Collection[str], shape: ModelShape) -> list[str]:
    """Tensors of a folder that the model does not use."""
    known = {
        name.format(layer=layer, expert=expert)
        for mapping in shape.family.mappings
        for name in mapping.hf
        for layer in range(shape.layers)
        for expert in (range(shape.experts) if mapping.of_expert else [None])
    }
    return [name for name in names if name not in known]


LEAVE_OUT_FIRST = "convert it there and back with coreward convert and --allow-extra"
"""Where a folder is loaded as it is, the way to leave out what its architecture does not know."""


def check_extra_tensors(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    given: str,
    shape: ModelShape,
    way_out: str,
    *,
    allowed: bool = False,
) -> None:
    """Refuses what the model would ignore: it would compute another function than the folder's.

    The head of a tied model is fine if it equals the embedding. `way_out` tells how to leave the others out.

    Raises:
        ValueError: naming them, unless they are `allowed`; a tied head that differs from the embedding.
    """
    extra = extra_tensors(tensors, shape)
    if extra and not allowed:
        raise ValueError(
            f"{given} has tensors that {shape.architecture} does not know: {some(extra)}. To leave "
            f"them out, {way_out}"
        )
    if has_other_head(folder, tensors, shape):
        raise ValueError(
            f"{shape.family.head} of {given} differs from {shape.family.embedding}, but config.json "
            "ties them; set tie_word_embeddings to false there if the head is to be its own"
        )


def has_other_head(folder: Path, tensors: Mapping[str, TensorInfo], shape: ModelShape) -> bool:
    """Tells whether the folder of a tied model has a head that is not the embedding."""
    head, embedding = shape.family.head, shape.family.embedding
    if not (shape.tied and {head, embedding} <= tensors.keys()):
        return False
    return not _same(folder, tensors[embedding], tensors[head])


def _same(folder: Path, first: TensorInfo, second: TensorInfo) -> bool:
    """Tells whether two tensors are equal; reads a block at a time."""
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    left = first.num_bytes
    with (folder / first.file).open("rb") as file_a, (folder / second.file).open("rb") as file_b:
        file_a.seek(first.start)
        file_b.seek(second.start)
        while left > 0:
            size = min(left, _BLOCK)
            if file_a.read(size) != file_b.read(size):
                return False
            left -= size
    return True
