"""Checks of a Mixture of Experts' layout. Imports no torch."""

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config


def check_experts(config: Config, shape: ModelShape, world_size: int) -> None:
    """Raises ValueError for an expert parallelism that this model or number of ranks does not allow."""
    parallel = config.parallel
    if not shape.experts:
        if parallel.expert > 1:
            raise ValueError(
                f"parallel.expert is {parallel.expert}, but {shape.architecture} (model.path) has no "
                f"experts. Set parallel.expert=1."
            )
        return
    ranks = world_size // parallel.pipeline  # of a stage, over which experts may be divided
    if shape.experts % parallel.expert or ranks % parallel.expert:
        allowed = [n for n in range(1, ranks + 1) if shape.experts % n == 0 == ranks % n]
        raise ValueError(
            f"parallel.expert is {parallel.expert}, but must divide the model's {shape.experts} experts and "
            f"the {ranks} ranks of a pipeline stage (ranks / parallel.pipeline): {allowed} do."
        )
    if parallel.tensor > 1 and not (parallel.sequence and parallel.expert > 1):
        # Experts are whole on their rank. Without sequence parallelism all TP ranks would send them the same
        # tokens, and with one expert rank Megatron would not add up what TP ranks learn from different ones.
        raise ValueError(
            f"parallel.tensor is {parallel.tensor}: a Mixture of Experts then needs parallel.sequence=true "
            f"and parallel.expert above 1; they are {str(parallel.sequence).lower()} and {parallel.expert}."
        )
