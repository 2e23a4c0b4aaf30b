"""Checks of the layers' modules, of FP8 and of determinism. Imports no torch.

preflight/ calls the checks that need the configuration and the model's sizes only. `check_machine` makes
those that depend on the machine, which its caller describes. Limits of hardware and CUDA are those
of Transformer Engine's quantization.py (check_recipe_support), versions those of Megatron-Core 0.16.1's
fp8_utils.py (get_fp8_recipe).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from packaging.version import Version

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.utils.versions import installed

TE_PACKAGE = "transformer-engine"
_INSTALL = "pip install 'transformer-engine[pytorch]' (needs a CUDA build of torch and the CUDA toolkit)"

HEAD_CHUNK_BYTES = 2**28
"""Float32 logits that the actor computes at once: enough rows for a fast product, whatever the vocabulary."""
CACHED_BYTES = 2**20
"""Of these, what a CPU works on at a time."""


@dataclass(frozen=True)
class Recipe:
    """Requirements of an FP8 recipe."""

    te_version: str
    """Least version of Transformer Engine."""
    capability: tuple[int, int]
    """Least compute capability of the GPU."""
    cuda: tuple[int, int]
    """Least CUDA version that torch is built for."""
    multiple: int
    """Rows and columns of a matrix are multiples of it (fp8_utils.get_fp8_align_size)."""
    capability_below: tuple[int, int] | None = None
    """The first compute capability without it."""

    def runs_on(self, capability: tuple[int, int]) -> bool:
        below = self.capability_below
        return self.capability <= capability and (below is None or capability < below)

    @property
    def capabilities(self) -> str:
        """The allowed compute capabilities in words."""
        below = f" and below {_dotted(self.capability_below)}" if self.capability_below else ""
        return f"{_dotted(self.capability)} or higher{below}"


RECIPES = {
    "delayed": Recipe("1.7", (8, 9), (12, 1), 16),
    "tensorwise": Recipe("2.2", (8, 9), (12, 1), 16),
    "blockwise": Recipe("2.3", (9, 0), (12, 9), 16),
    "mxfp8": Recipe("2.1", (10, 0), (12, 8), 32, capability_below=(12, 0)),
}
"""By `fp8.recipe`. From 1.7 on packed sequences obey the mask that Megatron passes; CUDA 12.8 is the first
that compiles for Blackwell."""

DETERMINISTIC_ENVIRONMENT = {
    "NCCL_ALGO": ("Ring", "Tree", "CollnetDirect", "CollnetChain", "^NVLS"),
    "CUBLAS_WORKSPACE_CONFIG": (":4096:8", ":16:8"),
    "NVTE_ALLOW_NONDETERMINISTIC_ALGO": ("0",),
}
"""Environment variables of a deterministic run on GPUs: for sums over ranks (the values that Megatron-LM's
arguments.py allows), cuBLAS (torch.use_deterministic_algorithms) and Transformer Engine's attention."""


def wanted(choice: str, *, on_gpu: bool) -> bool:
    """A key of the memory section: always, never, or auto = on a GPU."""
    return on_gpu if choice == "auto" else choice == "always"


def resolve_dtype(choice: str, *, on_gpu: bool) -> str:
    """`model.dtype` without auto: float32 on a CPU, where bfloat16 is emulated and slow, else bfloat16."""
    if choice != "auto":
        return choice
    return "bfloat16" if on_gpu else "float32"


def sync_tolerance(choice: float, dtype: str) -> float:
    """`weight_sync.tolerance` without 0, in nats; `dtype` as resolve_dtype returns it."""
    return choice or {"float32": 1e-3, "bfloat16": 0.5}[dtype]


@dataclass(frozen=True)
class Machine:
    """Hardware and software that a rank runs on."""

    capability: tuple[int, int] | None
    """Compute capability of the GPU; None without a GPU."""
    cuda: str | None
    """CUDA version that torch is built for; None for a CPU build."""
    te_version: str | None
    """Version of Transformer Engine; None without it, or without a GPU."""


def check_installed(config: Config) -> None:
    """Raises ValueError if a requested package is not installed; a plan for other machines skips it."""
    if config.model.transformer_impl == "transformer_engine" and installed(TE_PACKAGE) is None:
        raise ValueError(
            f"model.transformer_impl is transformer_engine, but {TE_PACKAGE} is not installed: {_INSTALL}, "
            f"or set model.transformer_impl=local."
        )


def check_precision(config: Config) -> None:
    """Raises ValueError for settings that contradict each other."""
    model, fp8 = config.model, config.fp8
    if fp8.format == "none":
        if fp8.params or fp8.first_last_bf16:
            given = "fp8.params is true" if fp8.params else f"fp8.first_last_bf16 is {fp8.first_last_bf16}"
            raise ValueError(f"{given}, but fp8.format is none. Set it to hybrid or e4m3 to compute in FP8.")
        return
    if model.transformer_impl == "local":
        raise ValueError(
            f"fp8.format is {fp8.format}, but model.transformer_impl is local, which cannot compute in FP8. "
            f"Set it to transformer_engine, or fp8.format=none."
        )
    if model.dtype == "float32":
        raise ValueError(
            f"fp8.format is {fp8.format}, but model.dtype is float32: FP8 replaces bfloat16 only. Set "
            f"model.dtype=bfloat16."
        )
    if fp8.recipe == "delayed" and fp8.first_last_bf16:
        raise ValueError(
            f"fp8.first_last_bf16 is {fp8.first_last_bf16}, but fp8.recipe=delayed has all layers in FP8. "
            f"Set fp8.first_last_bf16=0, or choose another fp8.recipe."
        )
    if fp8.params and fp8.recipe == "mxfp8":
        raise ValueError(
            "fp8.params is true, but with fp8.recipe=mxfp8 Megatron gathers weights through the gradient "
            "buffers, which is not supported. Set fp8.params=false, or choose another fp8.recipe."
        )
    if fp8.params and not config.optimizer.distributed:
        raise ValueError(
            "fp8.params is true, but optimizer.distributed is false, and Megatron's other optimizer cannot "
            "write FP8 weights. Set optimizer.distributed=true, or fp8.params=false."
        )


def check_fp8_sizes(config: Config, shape: ModelShape) -> None:
    """Raises ValueError if this model's matrices, cut over TP, do not go into FP8 products."""
    fp8, tensor = config.fp8, config.parallel.tensor
    if fp8.format == "none":
        return
    if shape.experts:
        raise ValueError(
            f"fp8.format is {fp8.format}, but {shape.architecture} (model.path) is a Mixture of Experts, "
            f"whose experts get any number of tokens. Set fp8.format=none."
        )
    multiple = RECIPES[fp8.recipe].multiple
    sizes = {
        "hidden size": shape.hidden,
        "width of all heads / parallel.tensor": shape.heads * shape.head_dim // tensor,
        "rows of queries, keys and values / parallel.tensor": (shape.heads + 2 * shape.kv_heads)
        * shape.head_dim
        // tensor,
        "MLP size / parallel.tensor": shape.intermediate // tensor,
    }
    for name, size in sizes.items():
        if size % multiple:
            raise ValueError(
                f"fp8.recipe is {fp8.recipe}, which needs matrices in multiples of {multiple}, but the "
                f"model's {name} is {size}. Choose another parallel.tensor or fp8.recipe, or set "
                f"fp8.format=none."
            )
    most = min(shape.layers // config.parallel.pipeline, (shape.layers - 1) // 2)
    if fp8.first_last_bf16 > most:
        raise ValueError(
            f"fp8.first_last_bf16 is {fp8.first_last_bf16}, but with {shape.layers} layers in "
            f"parallel.pipeline={config.parallel.pipeline} stages it must be at most {most}: no more than a "
            f"stage has, with one layer left in FP8."
        )


def check_machine(config: Config, machine: Machine, environment: Mapping[str, str]) -> None:
    """Raises ValueError for what this machine cannot do, given its environment variables.

    Settings that are auto require nothing of a machine.
    """
    if config.model.transformer_impl == "transformer_engine":
        _check_transformer_engine(
            machine, "model.transformer_impl is transformer_engine", "model.transformer_impl=local"
        )
    if config.fp8.format != "none":
        _check_transformer_engine(machine, f"fp8.format is {config.fp8.format}", "fp8.format=none")
        _check_recipe(config.fp8.recipe, machine)
    if config.model.deterministic and machine.capability is not None:
        _check_deterministic(machine, environment)


def _check_transformer_engine(machine: Machine, given: str, way_out: str) -> None:
    if machine.capability is None:
        raise ValueError(
            f"{given}, but Transformer Engine needs a GPU, and there is none here. Set {way_out}."
        )
    if machine.te_version is None:
        raise ValueError(f"{given}, but Transformer Engine is not installed: {_INSTALL}, or set {way_out}.")


def _check_recipe(name: str, machine: Machine) -> None:
    recipe = RECIPES[name]
    assert machine.capability is not None and machine.te_version is not None, (
        "_check_transformer_engine has let it pass"
    )
    if not recipe.runs_on(machine.capability):
        able = [other for other, needs in RECIPES.items() if needs.runs_on(machine.capability)]
        raise ValueError(
            f"fp8.recipe is {name}, which needs compute capability {recipe.capabilities}, but this GPU has "
            f"{_dotted(machine.capability)}. "
            + (f"Recipes for it: {', '.join(able)}." if able else "It has no FP8: set fp8.format=none.")
        )
    if machine.cuda is None or Version(machine.cuda) < Version(_dotted(recipe.cuda)):
        raise ValueError(
            f"fp8.recipe is {name}, which needs CUDA {_dotted(recipe.cuda)} or newer, but torch is built for "
            f"{machine.cuda}. Install another torch, or choose another fp8.recipe."
        )
    if Version(machine.te_version) < Version(recipe.te_version):
        raise ValueError(
            f"fp8.recipe is {name}, which needs {TE_PACKAGE} {recipe.te_version} or newer, but "
            f"{machine.te_version} is installed. Upgrade it, or choose another fp8.recipe."
        )


def _check_deterministic(machine: Machine, environment: Mapping[str, str]) -> None:
    for name, allowed in DETERMINISTIC_ENVIRONMENT.items():
        if name.startswith("NVTE") and machine.te_version is None:
            continue
        given = environment.get(name)
        if given not in allowed:
            raise ValueError(
                f"model.deterministic is true, which needs the environment variable {name} to be one of "
                f"{', '.join(allowed)}, but it is {given or 'not set'}. Set it for all ranks."
            )


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))
