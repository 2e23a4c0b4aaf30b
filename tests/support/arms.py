"""Made-up results of examples/arithmetic_arms."""

from typing import Any

from megatron_coreward.evaluation import health

STEPS = range(0, 65, 5)


def probe(step: int, g: float, *, k: float = 1.0, h: float = 0.5) -> dict[str, float]:
    """The figures of a healthy probe but for what is given."""
    return {
        "step": step,
        health.AGREEMENT: g,
        health.ENTROPY: h,
        health.KEPT: k,
        health.BY_CHANCE: 0.9,
        health.FLIPPED: 0.3,
        health.TOP: 0.1,
        health.INFORMATION: 3.0,
    }


def made_up(
    run: Any,
    *,
    g: float = 0.7,
    k_at_20: float = 1.0,
    start: str = "0110",
    chosen: str = "0111",
    last: str = "1111",
    validation: tuple[float, ...] = (),
    alarms: dict[str, int] | None = None,
) -> dict[str, Any]:
    """What a run would leave. `start`, `chosen` and `last` are greedy outcomes on the test split."""
    probes = [probe(step, g, k=k_at_20 if step == 20 else 1.0) for step in STEPS]
    sampled = {"pass@1": 0.4, "maj@8": 0.5, "pass@8": 0.8}
    values = list(validation) or [0.5] * len(STEPS)
    assert len(values) == len(STEPS), f"{len(values)} evaluations, but {len(STEPS)} steps have one"
    return {
        **{"name": run.name, "stage": run.stage, "task": run.task, "arm": run.arm, "seed": run.seed},
        **{"rate": run.rate, "commit": "a" * 40, "processor": "P", "torch": "2", "start_model": "a66067"},
        **{"seconds": 300, "chosen": 10, "alarms": alarms or {}},
        "probe": {name: [p[name] for p in probes] for name in probes[0]} | {"probe/kl": [0.01] * len(probes)},
        "steps": {"top_answer_share": [0.1] * 60, "vote_accuracy": [0.5] * 60},
        "validation": {"step": list(STEPS), "greedy_pass@1": values},
        "test": {
            model: {"greedy": digits, **sampled}
            for model, digits in (("start", start), ("chosen", chosen), ("last", last))
        },
    }
