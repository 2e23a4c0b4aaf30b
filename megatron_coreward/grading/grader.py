"""Decides which answers are equal: one grader for votes, rewards, ground truth and evaluation.

Answers are equivalence classes, not strings. Two different normal forms (answers.py) are equal if

1. reader.py can read both, and values.py says that they are equal (there: what that proves); or else
2. math-verify says so in both directions (workers.py), asked only where the numbers in both agree.

What math-verify is known to misread or to hang on, and what is no final answer, equals only itself.

Their units must not contradict each other; `5` and `5 cm` do not. Classes are the connected components of
this relation, so they do not depend on order. A comparison that runs out of time, CPU or memory, or comes
when the answers of one call have used up what they may take together (ANSWER_S), counts as unequal for the
rest of the run and is counted in `Grader.timeouts`.

Departs from the authors' code, which compares strings: equality="exact" does that.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from megatron_coreward.grading.answers import is_hashed, normal_form, split_unit
from megatron_coreward.grading.arithmetic import TooLargeError
from megatron_coreward.grading.reader import read_value
from megatron_coreward.grading.values import Collection, Relation, Value, may_be_equal, points, same_value
from megatron_coreward.grading.workers import TIMED_OUT, WorkerPool

NO_ANSWER = -1
"""Class of the empty form."""

ANSWER_S = 0.02
"""CPU seconds that math-verify may take per answer, on average over many; it needs 1 to 5 ms."""

CACHE_SIZE = 100_000
"""Forms and comparisons remembered before the caches are emptied."""

_PROSE = re.compile(r"(?<![\\a-zA-Z])(?<!\\begin\{)(?<!\\end\{)[a-zA-Z]{5,}")
"""Five letters in a row that are no command: a sentence, which math-verify would read as a product."""

_MISREAD = re.compile(
    r"(?<!_)\d \d|\d_|'|\\prime|\\\{[a-zA-Z][^,}]*:|(?:if|for).*(?:[=<>]|\\[lgn]eq)",
)
r"""What math-verify would misread: `2 3` as 2+3 (but not `\log_2 8`), `12_34` as 12, `f'` as f, `\{x:x>3\}`
as x/x>3, and `1\text{ if }x>0`, whose form is `1ifx>0`, as 1*i*f*x>0."""

_UNEVALUATED = re.compile(
    r"\\(?:i*int|oint|sum|prod|coprod|lim|limsup|liminf|nabla|partial|cap)(?![a-zA-Z])"
    r"|\\frac\{d[^{}]*\}\{d ?[a-zA-Z]"
)
"""A sum, integral, limit, derivative or intersection that is still to be worked out is no final answer."""

_OPAQUE = (_PROSE, _MISREAD, _UNEVALUATED)

_BRACKET = re.compile(r"\\.|[(\[{}\])]")
_MAX_DEPTH = 25
"""Brackets in brackets before an answer is no mathematics; math-verify spends seconds on `[[[[[[`."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class _Form:
    """A normal form, taken apart once."""

    body: str
    unit: str
    opaque: bool
    """Equal only to itself: a hash, prose, no final answer, what math-verify misreads or hangs on."""
    word: bool  # three letters or more: not equal to another word ("tea" is not "eat")
    value: Value | None


@dataclass(frozen=True)
class _Reading:
    """What math-verify makes of a body; see math_worker.read."""

    kind: str
    points: list[complex] | None


class Grader:
    """Compares normal forms. Holds worker processes from the first hard comparison until close().

    Args:
        equality: "math" or "exact" (`reward.equality`).
        timeout_s: CPU seconds that reading an answer or comparing two may take (`reward.timeout_s`).
        workers: processes (`reward.workers`).
    """

    def __init__(self, equality: str = "math", timeout_s: float = 5.0, workers: int = 1) -> None:
        assert equality in ("math", "exact"), f"unknown equality {equality!r}"
        self.equality = equality
        self.timeouts = 0
        self._timeout_s = timeout_s
        self._pool = WorkerPool(workers, timeout_s)
        self._forms: dict[str, _Form] = {}
        self._readings: dict[str, _Reading] = {}
        self._equal: dict[Pair, bool] = {}
        self._timed_out: set[tuple[str, ...]] = set()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes; the grader can still be used and starts new ones."""
        self._pool.close()

    def form(self, answer: str) -> str:
        """The normal form of an extracted answer or a ground truth, as this grader compares it."""
        return normal_form(answer, self.equality)

    def equal(self, a: str, b: str) -> bool:
        """Whether two normal forms are the same answer. No answer equals nothing."""
        return self.equal_many([(a, b)])[0]

    def equal_many(self, pairs: Sequence[Pair]) -> list[bool]:
        """`equal` of many pairs at once, which keeps all workers busy."""
        return [first == second != NO_ANSWER for first, second in self.classify(pairs)]

    def classes(self, forms: Sequence[str]) -> list[int]:
        """The class of each form: equal answers share a number, "" is NO_ANSWER.

        Classes are numbered from 0 by their smallest form, so the numbers do not depend on order either.
        """
        return self.classify([forms])[0]

    def classify(self, groups: Sequence[Sequence[str]]) -> list[list[int]]:
        """`classes` of many lists at once, which keeps all workers busy."""
        if max(len(self._forms), len(self._readings), len(self._equal)) > CACHE_SIZE:
            self._forms, self._readings, self._equal = {}, {}, {}
        pairs_of = [list(combinations(sorted(set(group) - {""}), 2)) for group in groups]
        if self.equality == "math":
            self._decide({pair for pairs in pairs_of for pair in pairs})
        return [
            _components(group, [pair for pair in pairs if self._equal.get(pair, False)])
            for group, pairs in zip(groups, pairs_of, strict=True)
        ]

    def _decide(self, pairs: Iterable[Pair]) -> None:
        """Fills the cache for `pairs`: cheap rules first, then readings, then comparisons."""
        hard: list[Pair] = []
        for pair in pairs:
            if pair not in self._equal:
                verdict = self._compare(*pair)
                if verdict is None:
                    hard.append(pair)
                else:
                    self._equal[pair] = verdict
        bodies = {pair: (self._form(pair[0]).body, self._form(pair[1]).body) for pair in sorted(hard)}
        forms = [self._form(form) for pair in hard for form in pair]
        self._read(sorted({f.body for f in forms if f.value is None} - self._readings.keys()))
        close = [pair for pair in bodies if self._plausible(pair)]
        verdicts = self._ask([("compare", *bodies[pair]) for pair in close])
        self._equal.update(dict.fromkeys(bodies, False))
        self._equal.update({pair: v is True for pair, v in zip(close, verdicts, strict=True)})

    def _form(self, form: str) -> _Form:
        if form not in self._forms:
            body, unit = split_unit(form)
            letter_digits = unit.startswith("_") and body.strip("-.0123456789")
            opaque = is_hashed(form) or bool(letter_digits) or not _well_nested(body)
            opaque = opaque or any(pattern.search(body) for pattern in _OPAQUE)
            word = body.isalpha() and len(body) > 2
            value = None
            try:
                value = None if opaque else read_value(body)
            except TooLargeError:
                opaque = True
            self._forms[form] = _Form(body, unit, opaque, word, value)
        return self._forms[form]

    def _compare(self, form_a: str, form_b: str) -> bool | None:
        """The verdict on two different forms, or None if math-verify must be asked."""
        a, b = self._form(form_a), self._form(form_b)
        if a.unit and b.unit and a.unit != b.unit:
            return False
        if a.body == b.body:
            return True
        if a.opaque or b.opaque or (a.word and b.word):
            return False
        if a.value is None or b.value is None or _differ_in_names(a.value, b.value):
            return None
        return same_value(a.value, b.value)

    def _read(self, bodies: Sequence[str]) -> None:
        for body, answer in zip(bodies, self._ask([("read", body) for body in bodies]), strict=True):
            self._readings[body] = _Reading("text", None) if answer is TIMED_OUT else _Reading(*answer)

    def _plausible(self, pair: Pair) -> bool:
        """Whether a full comparison could find two forms equal."""
        a, b = (self._reading(self._form(form)) for form in pair)
        if "text" in (a.kind, b.kind):
            return False
        return a.kind != b.kind or a.points is None or b.points is None or may_be_equal(a.points, b.points)

    def _reading(self, form: _Form) -> _Reading:
        if form.value is None:
            return self._readings[form.body]
        return _Reading("relation" if isinstance(form.value, Relation) else "value", points(form.value))

    def _ask(self, tasks: Sequence[tuple[str, ...]]) -> list[Any]:
        """The workers' answers; what ran out of time once is not tried again."""
        fresh = [task for task in tasks if task not in self._timed_out]
        budget_s = self._timeout_s + ANSWER_S * len({form for _, *forms in fresh for form in forms})
        answers = dict(zip(fresh, self._pool.run(fresh, budget_s), strict=True)) if fresh else {}
        failed = [task for task, answer in answers.items() if answer is TIMED_OUT]
        self._timed_out.update(failed)
        self.timeouts += len(failed)
        return [answers.get(task, TIMED_OUT) for task in tasks]


def _well_nested(body: str) -> bool:
    """Whether all brackets close, of whatever kind (`[0,1)`), and not too many are open at a time."""
    level = 0
    for bracket in _BRACKET.findall(body):
        level += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(bracket, 0)
        if not 0 <= level <= _MAX_DEPTH:
            return False
    return level == 0


def _differ_in_names(a: Value, b: Value) -> bool:
    """Whether one of two collections names its values, as `x=1,y=2`, and the other, as `(1,2)`, does not."""
    named = [isinstance(v, Collection) and any(isinstance(i, Relation) for i in v.items) for v in (a, b)]
    return isinstance(a, Collection) and isinstance(b, Collection) and named[0] != named[1]


def _components(forms: Sequence[str], equal: Sequence[Pair]) -> list[int]:
    """Connected components of `equal`, numbered by their smallest form."""
    root = {form: form for form in forms}

    def find(form: str) -> str:
        while root[form] != form:
            form = root[form]
        return form

    for a, b in equal:
        low, high = sorted((find(a), find(b)))
        root[high] = low
    number = {form: n for n, form in enumerate(sorted({find(form) for form in forms if form}))}
    return [number[find(form)] if form else NO_ANSWER for form in forms]
