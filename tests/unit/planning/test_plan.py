"""Memory and weight sync of a planned run, operations: values by hand, and the direction of changes."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.precision import CACHED_BYTES, HEAD_CHUNK_BYTES
from megatron_coreward.config.schema import Config
from megatron_coreward.phases import flops
from megatron_coreward.planning import traffic
from megatron_coreward.planning.activations import (
    Pass,
    head_input_bytes,
    kept_bytes,
    layer_bytes_per_token,
    logits_bytes,
    work_bytes,
)
from megatron_coreward.planning.devices import DEVICES, Cluster
from megatron_coreward.planning.memory import FIRST_SYNC, MemoryPlan, plan_memory
from megatron_coreward.planning.models import KNOWN, find_shape, recipe_of
from megatron_coreward.preflight.costs import (
    GIB,
    count_parameters,
    count_parameters_on_stage,
    kv_cache_bytes_per_token,
)

SHAPE = ModelShape(Path("model"), "Qwen2ForCausalLM", 4, 8, 16, 4, 2, 2, 11, True, 8192)
GPU16, CPU32 = "bfloat16", "float32"


def load(*overrides: str) -> Config:
    return load_config([], ["model.path=x", "data.source=synthetic", *overrides])


def cluster(gpus: int = 4, device: str = "H100", per_node: int = 8) -> Cluster:
    return Cluster(device, DEVICES[device], gpus, per_node)


def memory(model: str, *overrides: str, gpus: int = 4, device: str = "H100") -> MemoryPlan:
    return plan_memory(load(*overrides), KNOWN[model], cluster(gpus, device))


def phase(plan: MemoryPlan, name: str) -> dict[str, int]:
    (found,) = [item for item in plan.phases if item.phase == name]
    return found.parts | {"sum": found.total}


# What each model's page says of its size.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen2.5-3B", 3_085_938_688),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen3-1.7B-Base", 1_720_574_976),
        ("Qwen3-4B-Base", 4_022_468_096),
        ("Qwen3-8B-Base", 8_190_735_360),
        ("Llama-3.2-3B-Instruct", 3_212_749_824),
        ("Qwen3-30B-A3B-Base", 30_532_122_624),
    ],
)
def test_sizes_of_known_models(name: str, parameters: int) -> None:
    assert count_parameters(KNOWN[name]) == parameters
    assert find_shape(f"owner/{name}") == KNOWN[name]
    recipe = recipe_of(f"owner/{name}")
    assert recipe is not None and recipe_of(f"models/{name}") == recipe == recipe_of(name)
    assert load_config([recipe]).model.path.endswith(f"/{name}")


def test_layer_activations_by_hand() -> None:
    config = load()
    # In float32. Two norms of 8 values: input, output and a statistic; angles 4 x 2; attention: query of 8,
    # key of 4, the whole projection of 16 for the value, output and packed output of 8, 4 sums; MLP 3 x 16.
    by_hand = 2 * (8 * 8 + 4) + (4 * 2 + 8 + 4 + 16 + 8 + 8 + 3 * 16) * 4 + 4 * 4
    assert layer_bytes_per_token(config, SHAPE, CPU32, "none") == by_hand
    # Selective: no unpacked output and no sums.
    assert layer_bytes_per_token(config, SHAPE, CPU32, "selective") == by_hand - 8 * 4 - 4 * 4
    assert layer_bytes_per_token(config, SHAPE, CPU32, "full") == 8 * 4
    # In bfloat16 everything takes 2 bytes but the statistics.
    half = 2 * (8 * 4 + 4) + (4 * 2 + 8 + 4 + 16 + 8 + 8 + 3 * 16) * 2 + 4 * 4
    assert layer_bytes_per_token(config, SHAPE, GPU16, "none") == half


def test_activations_over_ranks_by_hand() -> None:
    # Two ranks halve attention and MLP; only sequence parallelism halves the norms.
    inner = ((8 + 4 + 16 + 8 + 8 + 3 * 16) * 4 + 4 * 4) // 2
    two = load("parallel.tensor=2")
    assert layer_bytes_per_token(two, SHAPE, CPU32, "none") == 2 * (8 * 8 + 4) + 32 + inner
    sequence = load("parallel.tensor=2", "parallel.sequence=true")
    assert layer_bytes_per_token(sequence, SHAPE, CPU32, "none") == 2 * (4 * 8 + 4) + 32 + inner


def test_logits_by_hand() -> None:
    # 11 columns; in float32 logits and exponentials, or a block of these; the gradient of the head's input.
    cpu, gpu = partial(logits_bytes, on_gpu=False), partial(logits_bytes, on_gpu=True)
    tied = replace(SHAPE, tied=True)
    assert cpu(load(), SHAPE, CPU32, 100, backward=False) == 100 * 11 * 8
    assert cpu(load(), SHAPE, CPU32, 10**6, backward=False) == 10**6 * 11 * 4 + CACHED_BYTES
    assert cpu(load(), tied, CPU32, 100, backward=True) == 100 * 11 * 8  # the forward pass takes more
    # In bfloat16 also logits of that type; backward: a product for the weight's gradient.
    assert gpu(load(), SHAPE, GPU16, 100, backward=False) == 100 * 11 * 10
    assert gpu(load(), tied, GPU16, 1, backward=True) == 11 * 8 + 11 * 8 * 2 + 8 * 2
    # 12 over two ranks; a head of its own: what Megatron's hook wants in place of the weight's gradient, as
    # for a copy of the embedding on the last of two stages.
    two = (100 * 6 + 6 * 8 + 100 * 8) * 4
    untied = replace(SHAPE, tied=False)
    assert cpu(load("parallel.tensor=2"), untied, CPU32, 100, backward=True) == two
    assert cpu(load("parallel.pipeline=2"), tied, CPU32, 1, backward=True) == (11 + 11 * 8 + 8) * 4
    # A chunk of rows at most.
    most = HEAD_CHUNK_BYTES // (11 * 4) * 11 * 8
    assert gpu(load(), SHAPE, CPU32, 10**9, backward=False) == most
    assert head_input_bytes(load(), SHAPE, CPU32, Pass(100, 30)) == (100 + 30) * 8 * 4


def test_pipeline_stages_keep_what_is_in_flight() -> None:
    config = load("parallel.pipeline=2", "memory.recompute=full")
    packed = Pass(100, 50)
    assert kept_bytes(config, SHAPE, CPU32, 0, packed) == 2 * 100 * 8 * 4  # two layers of four
    layer = layer_bytes_per_token(config, SHAPE, CPU32, "none") + (2 * 16 + 2 * 8) * 4
    # No logits on the first stage.
    assert work_bytes(config, SHAPE, CPU32, 0, packed, on_gpu=False) == 100 * layer
    plan = memory("Qwen2.5-7B", "parallel.pipeline=4")
    (update,) = [item for item in plan.phases if item.phase == "update"]
    kept = kept_bytes(load("parallel.pipeline=4"), KNOWN["Qwen2.5-7B"], GPU16, 0, Pass(4096, 4096))
    assert (update.stage, update.parts["activations"]) == (0, 4 * kept)


def test_parameters_of_all_stages_are_the_models() -> None:
    for shape in (SHAPE, KNOWN["Qwen2.5-7B"], KNOWN["Qwen3-4B-Base"]):
        for pipeline in (1, 2, 3, 4):
            copies = shape.vocab * shape.hidden if shape.tied and pipeline > 1 else 0
            stages = sum(count_parameters_on_stage(shape, 1, pipeline, stage) for stage in range(pipeline))
            assert stages == count_parameters(shape) + copies


def test_memory_by_hand() -> None:
    """Qwen2.5-7B at TP4 on four H100: 1.9 billion parameters a rank, of them 57 x 3,584 in norms on each."""
    plan = memory("Qwen2.5-7B", "parallel.tensor=4")
    shape = KNOWN["Qwen2.5-7B"]
    norms = (2 * shape.layers + 1) * shape.hidden
    own = (count_parameters(shape) - norms) // 4 + norms
    updated = phase(plan, "update")
    assert (updated["weights"], updated["gradients"], updated["optimizer"]) == (2 * own, 4 * own, 12 * own)
    assert phase(plan, "log_probs")["reference"] == 2 * own
    assert set(phase(plan, "checkpoint")) == {"weights", "sum"}
    first = phase(plan, FIRST_SYNC)
    assert set(first) == {"weights", "vLLM weights", "vLLM buffers", "KV cache", "buckets", "sum"}
    assert first["vLLM weights"] == 2 * count_parameters(shape)
    cache = int(0.6 * 79 * GIB) - 2 * count_parameters(shape) - 2 * GIB
    assert first["KV cache"] == plan.kv_cache_bytes == cache
    per_sequence = 2 * 28 * 4 * 128 * 2 * (512 + 3072)
    assert plan.sequences == cache // per_sequence
    assert kv_cache_bytes_per_token(load(), shape, "bfloat16") * 3584 == per_sequence


def test_phases_follow_the_table() -> None:
    plan = memory("Qwen2.5-3B")
    names = [item.phase for item in plan.phases]
    assert names == [FIRST_SYNC, "rollout", "reward", "log_probs", "update", "sync", "checkpoint"]
    assert set(phase(plan, "reward")) == {"weights", "sum"}
    assert set(phase(plan, "rollout")) == {"weights", "vLLM weights", "vLLM buffers", "KV cache", "sum"}
    assert "KV cache" not in phase(plan, "sync")
    assert set(phase(plan, "update")) >= {"gradients", "optimizer", "activations"}
    assert "reference" not in phase(plan, "update") and "reference" in phase(plan, "log_probs")
    stays = memory("Qwen2.5-3B", "memory.offload_optimizer=never", "memory.rollout_sleep=never")
    assert {"optimizer", "KV cache"} <= set(phase(stays, "reward"))
    teacher = memory("Qwen2.5-3B", "reward.method=co_rewarding_2")
    assert "teacher" in [item.phase for item in teacher.phases]
    # Its bfloat16 weights, the float32 average and what rounding leaves of it: 2 + 4 + 4 bytes.
    assert phase(teacher, "log_probs")["teacher"] == 5 * phase(plan, "log_probs")["reference"]
    confident = memory("Qwen2.5-3B", "reward.method=entropy", "algorithm.kl_coef=0")
    assert "confidence" in [item.phase for item in confident.phases]
    assert "log_probs" not in [item.phase for item in confident.phases]
    assert plan.fullest.total == max(item.total for item in plan.phases)


def test_a_cpu_keeps_everything() -> None:
    plan = plan_memory(load("rollout.memory_gb=1"), SHAPE, cluster(2, "CPU"))
    for item in plan.phases:
        assert item.parts["KV cache"] == GIB
        assert item.parts["optimizer"] == 8 * count_parameters(SHAPE)


@pytest.mark.parametrize("model", KNOWN)
def test_more_of_what_saves_memory_never_takes_more(model: str) -> None:
    heads = KNOWN[model].kv_heads
    tensor = [memory(model, f"parallel.tensor={n}", gpus=8) for n in (1, 2, 4, 8) if heads % n == 0]
    ladders = [
        tensor,
        [memory(model, f"parallel.pipeline={n}", "memory.recompute=full", gpus=8) for n in (1, 2, 4)],
        [memory(model, f"memory.recompute={how}") for how in ("none", "full")],
        [memory(model, f"optimizer.distributed={yes}") for yes in ("false", "true")],
        [memory(model, f"memory.offload_optimizer={how}") for how in ("never", "auto")],
        [memory(model, f"optimizer.micro_batch_tokens={n}") for n in (16384, 8192, 4096)],
    ]
    for ladder in ladders:
        for before, after in zip(ladder, ladder[1:], strict=False):
            for name in [item.phase for item in before.phases]:
                assert phase(after, name)["sum"] <= phase(before, name)["sum"], name
            assert phase(after, "update")["sum"] < phase(before, "update")["sum"] or ladder is ladders[4]
    sequences = [memory(model, f"rollout.tensor_parallel_size={n}").sequences for n in (1, 2, 4)]
    assert sequences == sorted(set(sequences))


def test_flops_by_hand() -> None:
    # Per token and layer: 8 x (8 + 4 + 4) for the projections, 8 x 8 after attention, 3 x 8 x 16.
    linear = 2 * 4 * (128 + 64 + 384)
    assert flops.linear_flops_per_token(SHAPE) == linear
    assert flops.head_flops(SHAPE, 5) == 2 * 8 * 11 * 5
    attention = 4 * (3 * 3 + 5 * 5) * 8 * 4  # two products of s x s with 8 columns, four layers
    assert flops.attention_flops(SHAPE, [3, 5], causal=False) == attention
    assert flops.attention_flops(SHAPE, [3, 5]) == attention // 2
    forward = flops.forward_flops(SHAPE, [3, 5], 6, causal=False)
    assert forward == 8 * linear + 2 * 8 * 11 * 6 + attention
    trained = flops.training_flops(SHAPE, [3, 5], 6, causal=False)
    assert trained == 3 * 8 * linear + 3 * 2 * 8 * 11 * 6 + attention * 7 // 2
    chunk = HEAD_CHUNK_BYTES // (4 * 11)  # the last one's product is kept
    more = flops.training_flops(SHAPE, [3, 5], chunk + 2) - flops.training_flops(SHAPE, [3, 5], chunk)
    assert more == (3 + 1) * flops.head_flops(SHAPE, 2)
    full = flops.training_flops(SHAPE, [3, 5], 6, recompute="full", causal=False)
    assert full == trained + 8 * linear + attention


@pytest.mark.parametrize(
    ("tensor", "pipeline", "engine", "received_mb"),
    [(1, 1, 1, 0), (2, 1, 1, 269.0), (1, 2, 1, 212.4), (2, 1, 2, 0), (1, 2, 2, 212.4)],
)
def test_weight_sync_bytes_are_those_that_were_counted(
    tensor: int, pipeline: int, engine: int, received_mb: float
) -> None:
    """docs/evidence/weight_sync.md has what ranks received, from the counters of the real exporter."""
    config = load(
        f"parallel.tensor={tensor}",
        f"parallel.pipeline={pipeline}",
        f"rollout.tensor_parallel_size={engine}",
    )
    shape = ModelShape(Path("x"), "LlamaForCausalLM", 30, 576, 1536, 6, 2, 96, 49152, True, 2048)
    assert round(traffic.weight_sync_bytes(config, shape, "float32") / 1e6, 1) == received_mb


@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("engine", [1, 2, 4, 8])
def test_shards_received_are_those_the_exporter_sends(tensor: int, engine: int) -> None:
    from megatron_coreward.actor.weights.load import Entry
    from megatron_coreward.actor.weights.shares import EngineRank, needed_shards
    from megatron_coreward.families.mapping import Mapping, Split, Vocabulary

    vocab, rows = 150, 64
    padded = -(-vocab // tensor) * tensor
    shape = ModelShape(Path("x"), "LlamaForCausalLM", 1, 8, 8, 8, 8, 1, vocab, True, 64)
    cases = [
        (Split(0), rows // tensor, (rows / tensor, rows / engine, rows)),
        (Vocabulary(), padded // tensor, (padded / tensor, 192 / engine, vocab)),
    ]
    for group in range(max(1, engine // tensor)):
        for kind, height, parts in cases:
            entry = Entry(Mapping("w", ("w",), kind), None, 0, "w", (height, 8))
            ranks = [EngineRank((group * tensor + i) % engine, engine) for i in range(tensor)]
            sent = {j for i, e in enumerate(ranks) for j in needed_shards(entry, shape, tensor, e) if j != i}
            most = max(len(sent - {i}) for i in range(tensor))
            assert traffic.shards_received(*parts, tensor, engine, group) == most
