"""Checks of a layout: what the parallel sizes must divide. Imports no torch."""

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.registry import views_of


def check_ranks(config: Config, world_size: int) -> None:
    """Raises ValueError if ranks or batch cannot be divided as the configuration asks."""
    _check_world(config, world_size)
    _check_batch(config, world_size)


def check_model(config: Config, shape: ModelShape, world_size: int) -> None:
    """Raises ValueError if a model of these sizes cannot be divided as the configuration asks."""
    _check_sizes(config, shape)
    _check_replica(config, shape)
    _check_experts(config, shape, world_size)
    _check_context(config, shape)


def check_engine(config: Config, shape: ModelShape, world_size: int) -> None:
    """Raises ValueError if vLLM cannot be divided over the ranks, or not hold prompt and response."""
    _check_world(config, world_size)
    _check_replica(config, shape)
    _check_context(config, shape)


def _check_world(config: Config, world_size: int) -> None:
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    if config.parallel.sequence and tensor == 1:
        raise ValueError("parallel.sequence is true, but needs parallel.tensor above 1. Set it to false.")
    if world_size % (tensor * pipeline):
        raise ValueError(
            f"The run has {world_size} ranks, but parallel.tensor={tensor} x parallel.pipeline={pipeline} = "
            f"{tensor * pipeline} must divide their number. Change either, or start another number of ranks."
        )
    rollout_tp = config.rollout.tensor_parallel_size
    if world_size % rollout_tp:
        raise ValueError(
            f"rollout.tensor_parallel_size is {rollout_tp}, but must divide the {world_size} ranks."
        )


def _check_batch(config: Config, world_size: int) -> None:
    pairs = config.data.batch_pairs
    data_parallel = world_size // (config.parallel.tensor * config.parallel.pipeline)
    if pairs % data_parallel:
        raise ValueError(
            f"data.batch_pairs is {pairs}, but must be a multiple of the data-parallel size {data_parallel} "
            f"(ranks / (parallel.tensor x parallel.pipeline))."
        )
    replicas = world_size // config.rollout.tensor_parallel_size
    views = len(views_of(config))
    if views * pairs % replicas:
        raise ValueError(
            f"data.batch_pairs is {pairs}, so {views * pairs} groups ({views} view(s) a pair), but that must "
            f"be a multiple of the {replicas} rollout replicas (ranks / rollout.tensor_parallel_size)."
        )


def _check_sizes(config: Config, shape: ModelShape) -> None:
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    if shape.heads % tensor or (shape.intermediate % tensor and not shape.experts):
        raise ValueError(
            f"parallel.tensor is {tensor}, but must divide the model's {shape.heads} attention heads and MLP "
            f"size {shape.intermediate}."
        )
    if shape.kv_heads % tensor and tensor % shape.kv_heads:
        raise ValueError(
            f"parallel.tensor is {tensor}, but must divide the model's {shape.kv_heads} key/value heads or "
            f"be a multiple of them."
        )
    rows = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    if rows % tensor:  # possible with fewer key/value heads than ranks only
        raise ValueError(
            f"parallel.tensor is {tensor}, but must divide the {rows} rows of the model's fused projection "
            f"to queries, keys and values."
        )
    if shape.layers < pipeline:
        raise ValueError(
            f"parallel.pipeline is {pipeline}, but must not exceed the model's {shape.layers} layers."
        )


def _check_replica(config: Config, shape: ModelShape) -> None:
    rollout_tp = config.rollout.tensor_parallel_size
    if shape.heads % rollout_tp or shape.intermediate % rollout_tp:
        raise ValueError(
            f"rollout.tensor_parallel_size is {rollout_tp}, but must divide the model's {shape.heads} "
            f"attention heads and MLP size {shape.intermediate}."
        )
    if shape.kv_heads % rollout_tp and rollout_tp % shape.kv_heads:  # vLLM replicates when there are fewer
        raise ValueError(
            f"rollout.tensor_parallel_size is {rollout_tp}, but must divide the model's {shape.kv_heads} "
            f"key/value heads or be a multiple of them."
        )


def _check_experts(config: Config, shape: ModelShape, world_size: int) -> None:
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


def _check_context(config: Config, shape: ModelShape) -> None:
    prompt, response = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    if prompt + response > shape.max_positions:
        raise ValueError(
            f"data.max_prompt_tokens={prompt} + rollout.max_response_tokens={response} = {prompt + response} "
            f"tokens, but the model's context is {shape.max_positions} (max_position_embeddings). Lower "
            "either."
        )
