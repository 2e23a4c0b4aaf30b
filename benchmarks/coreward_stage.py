r"""Time of the reward stage, compared with the authors' manager or with a loop over strings.

    python -m benchmarks.coreward_stage [--pairs 128] [--samples 8] [--workers 1] [--tokens 3072]
        [--repeats 3] [--model FOLDER] [--tiny] [--output FILE.json] [--kinds]

Responses are text of about `--tokens` tokens. The loop does what the reward manager of the authors' code
does per item (find the last box, count strings per group, compare), in plain Python without its
tokenizer.decode. All run in this process, so their ratio holds on any machine.

Typical answers are timed, in turns, new ones in each repeat with the grader of the last, as in the steps of a
run. The authors' manager is the loop and the decoding of every response, with the tokenizer of
SmolLM2-135M-Instruct; our stage takes the text that vLLM has made while it generated.

With `--kinds` several kinds of answers are timed instead, against the loop alone. Seconds are then the best
of `--repeats` runs, each with a fresh grader; bytes are for ranks that hold one view of each pair, which is
the worst placement.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.options import leave, row_parser
from benchmarks.record import Record, paired
from benchmarks.trl_line import model_folder
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.data.prompts import load_tokenizer
from megatron_coreward.grading.grader import Grader
from megatron_coreward.phases.flops import useful_flops
from megatron_coreward.planning.models import KNOWN
from megatron_coreward.types import Response, View
from megatron_coreward.utils.distributed import TorchCommunicator
from tests.support.fakes import ThreadCommunicator, run_threads

MODEL, GPUS = "Qwen3-8B-Base", 4
"""The largest of the paper's models, and a number of GPUs to train it on."""
H100_FLOPS = 989e12
"""A second, of the data sheet: dense bfloat16."""
SENTENCE = (
    r"Since $x^2 + \frac{a}{b}$ is positive, we may divide by it and obtain {y} = 3. "  # 25 tokens or so
)
SPELLINGS = ["{n}", "{n}.0", "x={n}", r"\text{{{n}}}", r"\frac{{{m}}}{{2}}", "({n})", r"{n}\text{{ cm}}"]


def typical(rng: random.Random, pair: int, first: int = 0) -> str | None:
    """A majority in several spellings, a few wrong numbers, a few responses without an answer."""
    n = first + 10 + pair
    if rng.random() < 0.05:
        return None
    if rng.random() < 0.3:
        return str(rng.randrange(200))
    if pair % 16 == 0:  # left to math-verify
        return rng.choice([rf"\lfloor x\rfloor<{n}", rf"{n}>\lfloor x\rfloor"])
    return rng.choice(SPELLINGS).format(n=n, m=2 * n)


def distinct(template: str) -> Callable[[random.Random, int], str]:
    counter = iter(range(10, 10**9))
    return lambda rng, pair: template.format(n=next(counter))


CASES: dict[str, Callable[[], Callable[[random.Random, int], str | None]]] = {
    "typical": lambda: typical,
    "all distinct: numbers": lambda: distinct("{n}"),
    "all distinct: fractions": lambda: distinct(r"\frac{{{n}}}{{7}}"),
    "all distinct: polynomials": lambda: distinct(r"\frac{{x^2+{n}x}}{{2}}"),
    "all distinct: tuples with roots": lambda: distinct(r"(\sqrt{{{n}}},{n})"),
    "all distinct: math-verify only": lambda: distinct(r"\lfloor\frac{{{n}}}{{x}}\rfloor"),
}


def make_responses(
    pairs: int, samples: int, tokens: int, answer: Callable[[random.Random, int], str | None]
) -> list[Response]:
    rng, filler = random.Random(0), SENTENCE * (tokens // 25)
    responses = []
    for pair_id in range(pairs):
        for view in View:
            for sample in range(samples):
                found = answer(rng, pair_id)
                text = filler if found is None else filler + rf"The answer is $\boxed{{{found}}}$."
                ids = np.zeros(tokens, np.int32)
                logps = np.zeros(tokens, np.float32)
                responses.append(Response(pair_id, view, sample, (), ids, logps, text, "stop", 0))
    return responses


def loop_over_items(responses: Sequence[Response]) -> list[float]:
    """Per item the last box as a string, per group the most frequent one, per item whether they are equal."""
    answers = {}
    for r in responses:
        start, found = r.text.rfind(r"\boxed{"), ""
        if start >= 0:
            depth, begin = 0, start + len(r"\boxed")
            for position in range(begin, len(r.text)):
                depth += {"{": 1, "}": -1}.get(r.text[position], 0)
                if depth == 0:
                    found = r.text[begin + 1 : position]
                    break
        answers[r.key] = found
    by_group: dict[tuple[int, View], Counter[str]] = {}
    for r in responses:
        if answers[r.key].strip():
            by_group.setdefault((r.pair_id, r.view), Counter())[answers[r.key]] += 1
    rewards = []
    for r in responses:
        votes = by_group.get((r.pair_id, r.view.other))
        label = votes.most_common(1)[0][0] if votes else ""
        rewards.append(1.0 if label and answers[r.key] == label else 0.0)
    return rewards


def best_time(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def stage_seconds(responses: Sequence[Response], workers: int, equality: str, repeats: int) -> float:
    """Best time with empty caches; starting the process of math-verify, where one is needed, is in it."""
    return best_time(lambda: run_stage(Grader(equality, workers=workers), responses), repeats)


def run_stage(grader: Grader, responses: Sequence[Response]) -> None:
    CoRewardStage(TorchCommunicator(), grader, Config())(responses)
    assert grader.timeouts == 0, "a comparison timed out: the time means nothing"


def record(options: argparse.Namespace) -> Record:
    """The row of the suite: a grader that has its process, and other answers in each repeat, as in a run."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer = load_tokenizer(str(model_folder(options, Path(name))))
    batches = [
        make_responses(options.pairs, options.samples, options.tokens, partial(typical, first=1000 * number))
        for number in range(options.repeats + 1)
    ]
    ids = [tokenizer(r.text, add_special_tokens=False)["input_ids"] for r in batches[0]]
    graders = {equality: Grader(equality, workers=options.workers) for equality in ("exact", "math")}

    def manager(responses: Sequence[Response]) -> None:
        for response in ids:
            tokenizer.decode(response, skip_special_tokens=True)
        loop_over_items(responses)

    works: dict[str, Callable[[Sequence[Response]], object]] = {
        "the authors' manager": manager,
        "its loop over strings alone": loop_over_items,
        "stage, exact": partial(run_stage, graders["exact"]),
        "stage, math": partial(run_stage, graders["math"]),
    }
    found = paired({way: _with_next(work, batches) for way, work in works.items()}, options.repeats)
    settings = {"responses": len(ids), "tokens": options.tokens, "workers": options.workers}
    ratios = {f"{kind} / manager": (f"stage, {kind}", "the authors' manager") for kind in ("exact", "math")}
    goals = {"exact / manager": "at most 1", "math / manager": "at most 2"}
    step = paper_step_seconds(len(ids), options.tokens)
    share = statistics.median(found["stage, math"]["wall_s"]) / step
    notes = {
        f"least seconds of a step, {MODEL}, {GPUS} H100": round(step, 1),
        "stage, math by these (goal: under 0.01)": f"{share:.4f}",
    }
    return Record("reward", settings, found, ratios, goals, notes)


def _with_next(
    work: Callable[[Sequence[Response]], object], batches: Sequence[Sequence[Response]]
) -> Callable[[], object]:
    waiting = iter(batches)
    return lambda: work(next(waiting))


def paper_step_seconds(responses: int, tokens: int) -> float:
    """The reference's pass and the update of a step of the paper's size, at all that the data sheet states.

    No step is shorter: rollout and sync are left out, and so are the prompts. The planner states no seconds.
    """
    forward = useful_flops(KNOWN[MODEL], [(1, [tokens])] * responses)
    return 4 * forward / (GPUS * H100_FLOPS)


def bytes_sent(responses: Sequence[Response]) -> int:
    """Bytes that two ranks, each with all responses of one view, send each other."""

    def work(comm: ThreadCommunicator) -> int:
        grader = Grader()
        stage = CoRewardStage(comm, grader, Config())
        stage([r for r in responses if r.view is list(View)[comm.rank]])
        return comm.bytes_sent

    return sum(run_threads(2, work))


def main() -> None:
    parser = row_parser(__doc__, repeats=3, tiny="2 pairs and a toy's tokenizer")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=3072)
    parser.add_argument("--model", type=Path, help="folder of a tokenizer other than SmolLM2-135M-Instruct's")
    parser.add_argument("--kinds", action="store_true", help="a table over kinds of answers instead")
    options = parser.parse_args()
    if options.kinds and options.output:
        parser.error("--output keeps the row's figures and --kinds makes none, so give one of the two")
    if options.tiny:
        options.pairs = 2
    if options.kinds:
        Console().print(kinds(options))
    else:
        leave(record(options), options.output)


def kinds(options: argparse.Namespace) -> Table:
    """Seconds of the stage for every kind of answer, and of the loop over strings that has no grader."""
    title = f"{options.pairs} pairs x 2 views x {options.samples} samples, {options.tokens:,} tokens each"
    table = Table(
        "answers", "loop, strings", "stage, exact", "stage, math", "math / loop", "bytes", title=title
    )
    for name, make_answer in CASES.items():
        responses = make_responses(options.pairs, options.samples, options.tokens, make_answer())
        loop = best_time(lambda r=responses: loop_over_items(r), options.repeats)
        exact = stage_seconds(responses, options.workers, "exact", options.repeats)
        math = stage_seconds(responses, options.workers, "math", options.repeats)
        figures = (
            f"{loop:.3f} s",
            f"{exact:.3f} s",
            f"{math:.3f} s",
            f"{math / loop:.1f}",
            f"{bytes_sent(responses):,}",
        )
        table.add_row(name, *figures)
    text = sum(len(r.text) for r in responses)
    table.caption = f"text that stays where it was drawn: {text:,} bytes"
    return table


if __name__ == "__main__":
    main()
