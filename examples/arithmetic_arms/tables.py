"""The tables of one stage, in Markdown, from its results."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from arms import ARMS, CLAIMS, CLAIMS_SEEDS
from comparisons import (
    PRIMARY,
    SECONDARY,
    Comparison,
    collapse_step,
    compare,
    fall_step,
    holm,
    moves,
    rank_agreement,
    regret,
    warned,
)
from results import CHOSEN, GREEDY, LAST, START, outcomes_of, wordings_of
from rules import (
    COMMON_RATE,
    NEW_ARMS,
    PILOT_CHANCE,
    RATES,
    Result,
    by_todays_alarms,
    kept_rates,
    label_free_rate,
)

from megatron_coreward.reporting.changes import AVERAGED_STEPS

SAMPLED = ("pass@1", "maj@8", "pass@8")
FOUND = 0.05
TRAINING = {
    "vote_accuracy": "vote accuracy",
    "agreement": "agreement of the two votes",
    "majority_share": "share of the majority",
    "top_answer_share": "largest share of an answer",
    "entropy": "token entropy",
}
"""Figures of training steps (results.py) -> their columns."""
ENDS = (slice(None, AVERAGED_STEPS), slice(-AVERAGED_STEPS, None))
AS_RUN = (
    "The chosen checkpoints above are those of the alarms as they were in the pilot: forgetting rang at k < "
    f"0.9 twice running. Below it rings at k < {PILOT_CHANCE:.3f}, what chance leaves of k (README.md)."
)
TRAINING_WORDS = "Original questions; mean of the first ten steps -> mean of the last ten, over seeds."
Groups = dict[tuple[str, float], list[Result]]
"""Runs by arm and rate, in the order of ARMS."""


def grouped(results: Iterable[Result]) -> Groups:
    groups: Groups = {}
    for result in sorted(results, key=lambda r: (list(ARMS).index(r["arm"]), r["rate"], r["seed"])):
        groups.setdefault((result["arm"], result["rate"]), []).append(result)
    return groups


def title(arm: str) -> str:
    return ARMS[arm].title if arm else "start model"


def greedy(result: Result, model: str) -> float:
    return float(outcomes_of(result, model).mean())


def origin(results: Sequence[Result]) -> list[str]:
    """Where the runs were made."""

    def all_of(name: str) -> str:
        return ", ".join(sorted({str(result[name]) for result in results}))

    hours = sum(result["seconds"] for result in results) / 3600
    return [
        f"{len(results)} runs, {hours:.1f} hours of runs; commit {all_of('commit')[:12]}; torch "
        f"{all_of('torch')}; processor {all_of('processor')}; task {all_of('task')}, start model "
        f"{all_of('start_model')}; seeds {all_of('seed')}.",
    ]


def accuracies(results: Sequence[Result]) -> list[str]:
    """Every arm and rate on the test split: mean over seeds, lowest to highest."""
    several = wordings_of(results[0]["task"]) > 1
    wordings = ["greedy, plain", "greedy, hard"] if several else []
    head = ["arm", "rate", "seeds", "chosen step", "greedy, chosen", "greedy, last step", *wordings]
    head += [*SAMPLED, "wrong to right", "right to wrong"]
    rows = [_accuracy_row("start model", "", results[:1], START, several)]
    for (arm, rate), runs in grouped(results).items():
        rows.append(_accuracy_row(title(arm), f"{rate:g}", runs, CHOSEN, several))
    return _table(head, rows)


def _accuracy_row(name: str, rate: str, runs: Sequence[Result], model: str, several: bool) -> list[str]:
    outcomes = [run["test"][model]["greedy"] for run in runs]
    by_wording = [[_share(o[place::2]) for o in outcomes] for place in (0, 1)] if several else []
    sampled = [[run["test"][model][name] for run in runs] for name in SAMPLED]
    gained, lost = moves(runs, model)
    start = model == START
    return [
        *(name, rate, "" if start else str(len(runs))),
        "" if start else ", ".join(str(run["chosen"]) for run in runs),
        _spread([greedy(run, model) for run in runs]),
        "" if start else _spread([greedy(run, LAST) for run in runs]),
        *(_spread(values) for values in (*by_wording, *sampled)),
        *(("", "") if start else (f"{gained:.0f}", f"{lost:.0f}")),
    ]


def training(results: Sequence[Result]) -> list[str]:
    """How training went on originals: means of the first and the last steps, over seeds."""
    rows = []
    for (arm, rate), runs in grouped(results).items():
        cells = []
        for name in TRAINING:
            series = [run["steps"][name] for run in runs if name in run["steps"]]
            begun, ended = (_mean([_mean(s[part]) for s in series]) if series else None for part in ENDS)
            cells.append("" if begun is None else f"{begun:.3f} -> {ended:.3f}")
        rows.append([title(arm), f"{rate:g}", *cells])
    return _table(["arm", "rate", *TRAINING.values()], rows)


def three_rates(results: Sequence[Result]) -> list[str]:
    """Of arms that were run at all rates: greedy on the test split at three choices of the rate."""
    groups, arms = grouped(results), dict.fromkeys(r["arm"] for r in results)
    full = [arm for arm in arms if all((arm, rate) in groups for rate in RATES)]
    if "random" not in full:
        return ["The three columns of rates need random rewards at every rate.", ""]
    kept = kept_rates(results)
    head = ["arm", "label-free rate", "oracle rate (validation)", f"common rate {COMMON_RATE:g}"]
    rows = []
    for arm in full:
        oracle = max(RATES, key=lambda rate: _mean(_best_validation(groups[arm, rate])))
        chosen = (label_free_rate(results, arm, kept), oracle, COMMON_RATE)
        rows.append([title(arm), *(_at_rate(groups[arm, rate], rate) for rate in chosen)])
    kept_text = ", ".join(f"{rate:g}" for rate in kept)
    words = f"Rates that the noise floor allows: {kept_text}. In a cell: rate: chosen checkpoint / last step."
    return [words, "", *_table(head, rows)]


def _at_rate(runs: Sequence[Result], rate: float) -> str:
    chosen, last = (_mean([greedy(run, model) for run in runs]) for model in (CHOSEN, LAST))
    return f"{rate:g}: {chosen:.3f} / {last:.3f}"


def _best_validation(runs: Sequence[Result]) -> list[float]:
    return [max(run["validation"][GREEDY]) for run in runs]


def health(results: Sequence[Result]) -> list[str]:
    """Alarms before the loss, collapse as time to event, and what choosing without labels costs."""
    head = ["arm", "rate", "alarms (first step)", "fell by 0.05 at", "alarm", "collapsed at", "regret", "tau"]
    rows = []
    for (arm, rate), runs in grouped(results).items():
        taus = [tau for run in runs if (tau := rank_agreement(run)) is not None]
        rows.append(
            [
                *(title(arm), f"{rate:g}"),
                _each(runs, lambda run: " ".join(f"{n.split()[0]} {s}" for n, s in run["alarms"].items())),
                *(_each(runs, fall_step), _each(runs, warned), _each(runs, collapse_step)),
                _spread([regret(run) for run in runs]),
                f"{_mean(taus):+.2f}" if taus else "",
            ]
        )
    return _table(head, rows)


def comparisons(results: Sequence[Result]) -> list[str]:
    """The tests and the other differences, for the chosen checkpoint and for the last step.

    Where an arm was also run at the common rate, both once more with all arms at that.
    """
    groups = grouped(results)
    common = {arm: runs for (arm, rate), runs in groups.items() if rate == COMMON_RATE}
    own = common | {arm: runs for (arm, rate), runs in groups.items() if rate != COMMON_RATE}
    new = [Comparison(arm, "co_reward", "more than Co-Reward?") for arm in NEW_ARMS if arm in own]
    parts = [(own, CHOSEN, "the chosen checkpoint: the tests"), (own, LAST, "the last step: no tests")]
    if any(own[arm] != runs for arm, runs in common.items()):
        at_one = f"all arms at {COMMON_RATE:g}: no tests"
        parts += [
            (common, CHOSEN, f"the chosen checkpoint, {at_one}"),
            (common, LAST, f"the last step, {at_one}"),
        ]
    lines: list[str] = []
    for part, (by_arm, model, words) in enumerate(parts):
        tests = [(c, d) for c in PRIMARY if (d := compare(by_arm, c, model)) is not None]
        adjusted = holm([d.p for _, d in tests] + [1.0] * (len(PRIMARY) - len(tests)))
        others = [(c, d) for c in (*SECONDARY, *new) if (d := compare(by_arm, c, model)) is not None]
        rows = []
        for n, (c, d) in enumerate([*tests, *others]):
            tested = part == 0 and n < len(tests)
            verdict = _verdict(by_arm, c, adjusted[n]) if tested else ""
            rows.append(
                [
                    f"{title(c.after)} - {title(c.before)}",
                    *(c.asks, f"{d.value:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}"),
                    *((f"{adjusted[n]:.4f}" if tested else ""), verdict),
                ]
            )
        head = [f"greedy pass@1 of {words}", "asks", "difference", "95% interval", "p (Holm)", "found"]
        lines += [*_table(head, rows), ""]
    return lines


def _verdict(by_arm: Mapping[str, Sequence[Result]], comparison: Comparison, p: float) -> str:
    """None before all seeds are there: a test that can be looked at again and again finds something."""
    arms = [arm for arm in (comparison.after, comparison.before) if arm]
    if any(len(by_arm[arm]) < len(CLAIMS_SEEDS) for arm in arms):
        return "seeds are missing"
    return "yes" if p < FOUND else "no difference found"


def all_tables(results: Sequence[Result], stage: str) -> list[str]:
    """The page of a stage."""
    parts = [[f"# The {stage}", "", *origin(results)], ["## Test split", "", *accuracies(results)]]
    if stage == CLAIMS:
        parts.append(["## Differences", "", *comparisons(results)])
        parts.append(["The oracle rate exists for the pilot only: see pilot.md."])
    else:
        parts[-1] += ["", AS_RUN]
        parts.append(["## Three choices of the rate (one seed)", "", *three_rates(results)])
        results = [by_todays_alarms(result) for result in results]
    parts.append(["## Alarms, collapse and choice", "", *health(results)])
    parts.append(["## Training", "", TRAINING_WORDS, "", *training(results)])
    return [line for part in parts for line in [*part, ""]][:-1]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _each(runs: Sequence[Result], figure: Callable[[Result], object]) -> str:
    """A run's figure each, by seed; "-" for none."""
    return ", ".join("-" if (found := figure(run)) is None or found == "" else str(found) for run in runs)


def _share(digits: str) -> float:
    return digits.count("1") / len(digits)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _spread(values: Sequence[float]) -> str:
    mean = f"{_mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"
