"""Decides which answers are equal: one grader for votes, rewards, ground truth and evaluation.

Answers are equivalence classes, not strings. An answer may say more than its value: a name (`x=5`), a unit,
a base, the letter of a choice. Two answers are equal if

1. their values are: the same text, or reader.py can read both and values.py says so; and
2. nothing else that both of them say differs. `5` equals `5 cm`, and `5 cm` does not equal `5 km`.

So `5` fits two that contradict each other, and then it is in the class of neither. No step depends on order.
Terms that our own reader does not compute are left to math-verify, in processes with limits (workers.py).
One that runs out of time or memory, or comes when those of one call have used up what they may take together
(TERM_S), equals only itself for the rest of the run and is counted in `Grader.timeouts`.

equality="exact" compares strings, as the authors' code does.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Self

from megatron_coreward.grading.answers import Parts, is_hashed, normal_form, take_apart
from megatron_coreward.grading.reader import Ask, Term, read_value
from megatron_coreward.grading.values import MP, Number, Value, same_value
from megatron_coreward.grading.workers import TIMED_OUT, WorkerPool

NO_ANSWER = -1
"""Class of the empty form."""
TERM_S = 0.02
"""CPU seconds that math-verify may take per term, on average over many; it needs 1 to 5 ms."""
CACHE_SIZE = 100_000
"""Forms and comparisons remembered before the caches are emptied."""
_OPAQUE = re.compile(
    r"(?<![\\a-zA-Z])(?<!\\begin\{)(?<!\\end\{)[a-zA-Z]{5,}|\\text|^[a-zA-Z]{2,}$|^\d{1,4}-\d{1,2}-\d{1,4}$"
    r"|(?:^|[,(\[]|\\\{)[a-zA-Z]{2,}(?=,)|,[a-zA-Z]{2,}(?:$|[,)\]]|\\\})|\\frac\{d[^{}]*\}\{d ?[a-zA-Z]"
)
"""Five letters in a row that are no command, and a row of letters that stands alone, are words, not products.
Dates and derivatives that are still to be worked out are no numbers."""
_BRACKET = re.compile(r"\\.|[(\[{}\])]")
_MAX_DEPTH = 25
"""Brackets in brackets before an answer is no mathematics."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class _Form:
    """A normal form, taken apart and read once; `value` is None for what equals only itself."""

    parts: Parts
    value: Value | None


class Grader:
    """Compares normal forms. Holds worker processes from the first term that needs one until close().

    Args:
        equality: "math" or "exact" (`reward.equality`).
        timeout_s: CPU seconds that computing a term may take (`reward.timeout_s`).
        workers: processes (`reward.workers`).
    """

    def __init__(self, equality: str = "math", timeout_s: float = 5.0, workers: int = 1) -> None:
        assert equality in ("math", "exact"), f"unknown equality {equality!r}"
        self.equality = equality
        self.timeouts = 0
        self._timeout_s = timeout_s
        self._pool = WorkerPool(workers, timeout_s)
        self._forms: dict[str, _Form] = {}
        self._terms: dict[Term, Sequence[Number | None]] = {}
        self._equal: dict[Pair, bool] = {}

    def __enter__(self) -> Self:
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
        if self.equality == "math":
            if max(len(self._forms), len(self._equal)) > CACHE_SIZE:
                self._forms, self._equal = {}, {}
            self._read({form for group in groups for form in group} - self._forms.keys() - {""})
        return [self._numbered(group) for group in groups]

    def _numbered(self, group: Sequence[str]) -> list[int]:
        forms = sorted(set(group) - {""})
        classes = [[form] for form in forms] if self.equality == "exact" else self._classes_of(forms)
        number = {form: n for n, part in enumerate(sorted(map(sorted, classes))) for form in part}
        return [number.get(form, NO_ANSWER) for form in group]

    def _classes_of(self, forms: list[str]) -> list[list[str]]:
        by_value = _components([form for form in forms if self._forms[form].parts.body], self._same_value)
        number = {form: str(n) for n, same in enumerate(by_value, 1) for form in same}
        said = {form: (number.get(form, ""), *self._forms[form].parts[1:]) for form in forms}
        return _settled(forms, said) if any(any(what[1:]) for what in said.values()) else by_value

    def _same_value(self, a: str, b: str) -> bool:
        if (a, b) not in self._equal:
            one, other = self._forms[a], self._forms[b]
            same = one.parts.body == other.parts.body
            if not same and one.value is not None and other.value is not None:
                same = same_value(one.value, other.value)
            self._equal[a, b] = same
        return self._equal[a, b]

    def _read(self, forms: Iterable[str]) -> None:
        """Fills the cache of forms; terms that a worker must compute are asked for all at once."""
        wanted: dict[Term, None] = {}
        incomplete: list[str] = []
        for form in sorted(forms):
            parts, missing = take_apart(form), dict[Term, None]()
            self._forms[form] = _Form(parts, _value_of(parts.body, partial(self._ask, missing)))
            incomplete += [form] if missing else []
            wanted |= missing
        if wanted:
            results = self._pool.run(list(wanted), self._timeout_s + TERM_S * len(wanted))
            for term, result in zip(wanted, results, strict=True):
                self.timeouts += result is TIMED_OUT
                known = [None] if result is TIMED_OUT else result
                self._terms[term] = [None if number is None else MP.mpf(number) for number in known]
            self._read(incomplete)

    def _ask(self, missing: dict[Term, None], term: Term) -> Sequence[Number | None] | None:
        if term not in self._terms:
            missing[term] = None
        return self._terms.get(term)


def _value_of(body: str, ask: Ask) -> Value | None:
    level = 0
    for bracket in _BRACKET.findall(body):
        level += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(bracket, 0)
        if not 0 <= level <= _MAX_DEPTH:
            return None
    return None if level or is_hashed(body) or _OPAQUE.search(body) else read_value(body, ask)


def _settled(forms: list[str], said: Mapping[str, tuple[str, ...]]) -> list[list[str]]:
    """Classes of forms that say the same; one that fits two that contradict each other is apart from both."""

    def contradict(pair: Pair) -> bool:
        return any(x and y and x != y for x, y in zip(said[pair[0]], said[pair[1]], strict=True))

    def join(a: str, b: str) -> bool:
        value_or_choice = any(x and x == y for x, y in zip(said[a][:2], said[b][:2], strict=True))
        return value_or_choice and not contradict((a, b))

    classes: list[list[str]] = []
    for part in _components(forms, join):
        if not any(map(contradict, combinations(part, 2))):
            classes.append(part)
            continue
        fits = {form: [other for other in part if other != form and join(form, other)] for form in part}
        vague = [form for form in part if any(map(contradict, combinations(fits[form], 2)))]
        clear = [form for form in part if form not in vague]
        if vague and clear:
            classes += _settled(clear, said) + _settled(vague, said)
        else:
            classes += _components(part, lambda a, b: said[a] == said[b])
    return classes


def _components(forms: Sequence[str], same: Callable[[str, str], bool]) -> list[list[str]]:
    """Connected components of the relation `same`."""
    components: list[list[str]] = []
    for form in forms:
        joined = [part for part in components if any(same(other, form) for other in part)]
        components = [part for part in components if part not in joined]
        components.append([form, *(other for part in joined for other in part)])
    return components
