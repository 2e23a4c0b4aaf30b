"""The step of trl_line.py with each lever off, one at a time, and with all of them off.

    python -m benchmarks.ablation [the options of trl_line.py]

Every way is started anew in turns and times the step after a warm-up step. Log-probs in chunks cannot be
switched off. Without packing every response is a micro-batch of its own, so that it cannot share its prompt,
either.
"""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import trl_line
from benchmarks.options import leave
from benchmarks.record import Record, Series

SEPARATE = {"changes": ["optimizer.share_prompts=false"]}
UNPACKED = {"changes": ["optimizer.micro_batch_tokens=1"]}
EAGER = {"changes": ["rollout.enforce_eager=true"]}
LARGE_BLOCKS = {"kv_block": 128}
WAYS: dict[str, Mapping[str, Any]] = {
    "all levers": {},
    "without shared prompts": SEPARATE,
    "KV blocks of 128 (vLLM's own)": LARGE_BLOCKS,
    "without packing": UNPACKED,
    "vLLM not compiled": EAGER,
    "all off": {
        "changes": [change for off in (SEPARATE, UNPACKED, EAGER) for change in off["changes"]],
        **LARGE_BLOCKS,
    },
}


def run(change: Mapping[str, Any], spec: dict[str, Any]) -> Series:
    changes = spec["changes"] + change.get("changes", [])
    return trl_line.run_ours(spec | dict(change) | {"changes": changes})


def main() -> None:
    options, console = trl_line.parser(__doc__).parse_args(), Console()
    with tempfile.TemporaryDirectory() as name:
        model = trl_line.model_folder(options, Path(name))
        spec = trl_line.make_spec(options, str(model), Path(name), console)
        ways = {way: partial(run, change) for way, change in WAYS.items()}
        found = trl_line.in_turns(ways, spec, options.repeats, console)
    whole, *others = found
    kept = ("questions", "views", "samples", "new_tokens", "kl_coef", "rows", "changes")
    record = Record(
        row="ablation",
        settings={"model": model.name} | {name: spec[name] for name in kept},
        ways=found,
        ratios={f"{way} / {whole}": (way, whole) for way in others},
        notes={"cannot be switched off": "log-probs in chunks", "ids": spec["prompts"]},
    )
    leave(record, options.output)


if __name__ == "__main__":
    main()
