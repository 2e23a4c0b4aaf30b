"""Runs the experiment of README.md: every reward method with equal start, problems and number of responses.

    python examples/arithmetic_arms/run_arms.py --quick                 two arms, a few steps: is all there?
    python examples/arithmetic_arms/run_arms.py pilot --tag NAME        what is missing of the pilot
    python examples/arithmetic_arms/run_arms.py --freeze                the pilot's decisions: protocol.json
    python examples/arithmetic_arms/run_arms.py claims --tag NAME       what is missing of the claims
    python examples/arithmetic_arms/run_arms.py pilot --list            what is done and missing, how long

Stop with Ctrl-C and go on whenever you like. Each finished run leaves one JSON file in results/STAGE; with it
there, its run folder is not needed any more. Table and figure are drawn anew at the end.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from arms import CLAIMS, PILOT, QUICK, START_MODELS, Run, planned
from executor import Executor, say
from results import check_same_origin, read_results
from rules import Protocol, Result, check_protocol, freeze
from summarize_arms import write_summary
from trees import changes_in, commit_of, tree_of

from megatron_coreward.config.hf_files import fingerprint
from megatron_coreward.utils.failures import print_error
from megatron_coreward.utils.versions import processor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROTOCOL = HERE / "protocol.json"
GUESS_MINUTES = 9
"""A run takes, before any has been finished."""
OUTPUT = "COREWARD_ARMS_OUTPUT"
"""Variable by which the driver of a tag's work tree knows the folder that it was called from."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        if options.freeze:
            return write_protocol()
        if options.tag and OUTPUT not in os.environ:
            return _in_tree(tree_of(options.tag, ROOT), given)
        return _work(options)
    except ValueError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        say("stopped; the same call goes on")
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", nargs="?", choices=(PILOT, CLAIMS), default=PILOT)
    parser.add_argument("--tag", default="", help="run in a git work tree of this tag, under build/arms")
    parser.add_argument("--freeze", action="store_true", help="write protocol.json from the pilot's results")
    parser.add_argument(
        "--quick", action="store_true", help="two arms, a few steps, in a folder of their own"
    )
    parser.add_argument("--list", action="store_true", help="show what is done and missing, run nothing")
    parser.add_argument("--hours", type=float, default=0.0, help="start no run after so many hours; 0 = all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, a core each")
    return parser


def _in_tree(tree: Path, arguments: Sequence[str]) -> int:
    """The same call by the driver of the work tree, with the package of the work tree."""
    say(f"work tree {tree}, commit {commit_of(tree)[:12]}")
    driver = tree / HERE.relative_to(ROOT) / Path(__file__).name
    environment = {**os.environ, "PYTHONPATH": str(tree), OUTPUT: str(ROOT)}
    os.chdir(tree)
    os.execve(sys.executable, [sys.executable, str(driver), *arguments], environment)


def _work(options: argparse.Namespace) -> int:
    stage = QUICK if options.quick else options.stage
    outer = Path(os.environ.get(OUTPUT, ROOT))
    results = results_folder(stage, outer)
    done = read_results(results)
    protocol = Protocol.read(PROTOCOL)
    todo = missing(stage, done, protocol)
    if options.list:
        _show(done, todo, options.jobs)
        return 0
    if not options.quick and not options.tag:
        raise ValueError(
            "name the tag of the runs with --tag: all of a table are of one commit (--quick needs none)"
        )
    facts, models = origin(stage), start_models()
    check_same_origin(done, facts["commit"], models)
    if stage == CLAIMS and protocol is not None:
        check_protocol(protocol, read_results(HERE / "results" / PILOT))
    say(estimate(done, len(todo), options.jobs))
    runs = outer / "runs" / "arithmetic_arms" / stage / (options.tag or "untagged")
    executor = Executor(runs, results, max(1, options.jobs), facts, models, options.quick)
    failed = executor.run_all(todo, options.hours * 3600 if options.hours else float("inf"))
    if finished := read_results(results):
        output = results.parent if options.quick else outer / HERE.relative_to(ROOT)
        say(f"table and figure: {write_summary(finished, output, stage)}")
    return 1 if failed else 0


def results_folder(stage: str, root: Path) -> Path:
    if stage == QUICK:
        return root / "runs" / "arithmetic_arms" / QUICK / "results"
    return root / HERE.relative_to(ROOT) / "results" / stage


def missing(stage: str, done: Sequence[Result], protocol: Protocol | None) -> list[Run]:
    """The runs of a stage that have left no result yet."""
    names = {result["name"] for result in done}
    return [run for run in planned(stage, protocol) if run.name not in names]


def write_protocol() -> int:
    """`--freeze`. Raises ValueError if the pilot is not done, or claims have been made by a protocol."""
    if any((HERE / "results" / CLAIMS).glob("*.json")):
        raise ValueError("the protocol stays as it is: results/claims holds runs that were made by it")
    pilot = read_results(HERE / "results" / PILOT)
    protocol = freeze(pilot)
    protocol.write(PROTOCOL)
    rates = ", ".join(f"{arm} {rate:g}" for arm, rate in protocol.rates.items())
    say(f"allowed by the noise floor: {', '.join(f'{rate:g}' for rate in protocol.kept_rates)}")
    say(f"rates: {rates}; best new arm: {protocol.best_new_arm}")
    say(f"commit {PROTOCOL.relative_to(ROOT)} with results/{PILOT}, and tag that commit for the claims")
    return 0


def origin(stage: str) -> dict[str, Any]:
    """What every result says of where it was made; the start model is added for each task."""
    commit = commit_of(ROOT)
    if stage == QUICK and changes_in(ROOT):
        commit += "+changes"
    return {"commit": commit, "processor": processor(), "torch": version("torch")}


def start_models() -> dict[str, str]:
    """Task -> the beginning of the SHA-256 of its start model's weights."""
    return {task: fingerprint(ROOT / model)[:16] for task, model in START_MODELS.items()}


def estimate(done: Sequence[Result], left: int, jobs: int) -> str:
    """How long the rest will take, from the runs that are done."""
    if not left:
        return "all runs are done"
    seconds = [result["seconds"] for result in done]
    minutes = sum(seconds) / len(seconds) / 60 if seconds else GUESS_MINUTES
    source = f"the mean of {len(seconds)} finished runs" if seconds else "a guess, as none is finished yet"
    hours = minutes * -(-left // jobs) / 60
    return f"{left} runs to do, {jobs} at a time, {minutes:.1f} min each ({source}): about {hours:.1f} h"


def _show(done: Sequence[Result], todo: Sequence[Run], jobs: int) -> None:
    for result in done:
        alarms = ", ".join(f"{name} at step {step}" for name, step in result["alarms"].items())
        say(f"done     {result['name']}: checkpoint {result['chosen']}, {alarms or 'no alarm'}")
    for run in todo:
        say(f"missing  {run.name}")
    say(estimate(done, len(todo), jobs))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # runs save a checkpoint on both
    sys.exit(main())
