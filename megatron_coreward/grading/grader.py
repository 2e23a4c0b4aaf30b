"""Decides which answers are equal: one grader for votes, rewards, ground truth and evaluation.

Answers are equivalence classes, not strings. An answer may say more than its value: a name (`x=5`), a unit,
a base, the letter of a choice. Two answers are equal if their values are (the same text, or reader.py reads
both and values.py says so) and nothing else that both say differs: `5` equals `5 cm`, and `5 cm` does not
equal `5 km`. So `5` fits two that contradict each other, and then it is in the class of neither. No step
depends on order. A term of math-verify's that runs out of time or memory, or comes when those of one call
have used up what they may take together (TERM_S), equals only itself for the rest of the run and is counted
in `Grader.timeouts`. equality="exact" compares strings, as the authors' code does.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

from megatron_coreward.grading.answers import Parts, normal_form, take_apart
from megatron_coreward.grading.reader import Term, read_value, terms_of
from megatron_coreward.grading.values import MP, Number, Value, same_value
from megatron_coreward.grading.workers import TIMED_OUT, compute

NO_ANSWER = -1  # the class of the empty form
TERM_S = 0.02
"""CPU seconds that math-verify may take per term, on average over many; it needs 1 to 5 ms."""
CACHE_SIZE = 100_000  # forms and comparisons remembered before the caches are emptied
_OPAQUE = re.compile(
    r"(?<![\\a-zA-Z])(?<!\\begin\{)(?<!\\end\{)[a-zA-Z]{5,}|\\text|^[a-zA-Z]{2,}$|^\d{1,4}-\d{1,2}-\d{1,4}$"
    r"|(?:^|[,(\[]|\\\{)[a-zA-Z]{2,}(?=,)|,[a-zA-Z]{2,}(?:$|[,)\]]|\\\})|\\frac\{d[^{}]*\}\{d ?[a-zA-Z]"
)
"""Five letters in a row that are no command, and a row of letters that stands alone, are words, not products.
Dates and derivatives that are still to be worked out are no numbers."""
Pair = tuple[str, str]


class Grader:
    """Compares normal forms.

    Args:
        equality: "math" or "exact" (`reward.equality`).
        timeout_s: CPU seconds that computing a term may take (`reward.timeout_s`).
        workers: processes that compute terms (`reward.workers`).
    """

    def __init__(self, equality: str = "math", timeout_s: float = 5.0, workers: int = 1) -> None:
        assert equality in ("math", "exact"), f"unknown equality {equality!r}"
        assert workers > 0 and timeout_s > 0, f"need workers and time, got {workers=} {timeout_s=}"
        self.equality = equality
        self.timeouts = 0
        self._timeout_s, self._workers = timeout_s, workers
        self._parts: dict[str, Parts] = {}
        self._values: dict[str, Value | None] = {}
        self._terms: dict[Term, Sequence[Number | None]] = {}
        self._equal: dict[Pair, bool] = {}

    def form(self, answer: str) -> str:
        """The normal form of an extracted answer or a ground truth, as this grader compares it."""
        return normal_form(answer, self.equality)

    def equal(self, a: str, b: str) -> bool:
        """Whether two normal forms are the same answer. No answer equals nothing."""
        return self.equal_many([(a, b)])[0]

    def equal_many(self, pairs: Sequence[Pair]) -> list[bool]:
        """`equal` of many pairs at once, which keeps all workers busy."""
        return [first == second != NO_ANSWER for first, second in self.classify(pairs)]

    def classify(self, groups: Sequence[Sequence[str]]) -> list[list[int]]:
        """The class of each form in each group: equal answers share a number, "" is NO_ANSWER.

        Classes are numbered from 0 by their smallest form, so the numbers do not depend on order either.
        """
        if self.equality == "math":
            if max(len(self._parts), len(self._equal)) > CACHE_SIZE:
                self._parts, self._values, self._equal = {}, {}, {}
            self._read({form for group in groups for form in group} - self._parts.keys() - {""})
        return [self._numbered(group) for group in groups]

    def _numbered(self, group: Sequence[str]) -> list[int]:
        forms = sorted(set(group) - {""})
        classes = [[form] for form in forms] if self.equality == "exact" else self._classes_of(forms)
        number = {form: n for n, part in enumerate(sorted(map(sorted, classes))) for form in part}
        return [number.get(form, NO_ANSWER) for form in group]

    def _classes_of(self, forms: list[str]) -> list[list[str]]:
        by_value = _components([form for form in forms if self._parts[form].body], self._same_value)
        number = {form: str(n) for n, same in enumerate(by_value, 1) for form in same}
        said = {form: (number.get(form, ""), *self._parts[form][1:]) for form in forms}
        return _settled(forms, said) if any(any(what[1:]) for what in said.values()) else by_value

    def _same_value(self, a: str, b: str) -> bool:
        if (a, b) not in self._equal:
            value, other = self._values[a], self._values[b]
            same = value is not None and other is not None and same_value(value, other)
            self._equal[a, b] = same or self._parts[a].body == self._parts[b].body
        return self._equal[a, b]

    def _read(self, forms: Iterable[str]) -> None:
        """Fills the caches; what math-verify must compute is asked for all at once."""
        bodies = {form: take_apart(form) for form in sorted(forms)}
        self._parts |= bodies
        readable = {form: part.body for form, part in bodies.items() if not _OPAQUE.search(part.body)}
        terms = list(
            dict.fromkeys(t for body in readable.values() for t in terms_of(body) if t not in self._terms)
        )
        budget_s = self._timeout_s + TERM_S * len(terms)
        results = compute(terms, self._timeout_s, budget_s, self._workers) if terms else []
        for term, result in zip(terms, results, strict=True):
            self.timeouts += result is TIMED_OUT
            known = [None] if result is TIMED_OUT else result
            self._terms[term] = [None if number is None else MP.mpf(number) for number in known]
        for form in bodies:
            self._values[form] = read_value(readable[form], self._terms) if form in readable else None


def _settled(forms: list[str], said: Mapping[str, tuple[str, ...]]) -> list[list[str]]:
    """Classes of forms that say the same; one that fits two that contradict each other is apart from both."""

    def contradict(pair: Pair) -> bool:
        return any(x and y and x != y for x, y in zip(said[pair[0]], said[pair[1]], strict=True))

    def join(a: str, b: str) -> bool:
        value_or_choice = any(x and x == y for x, y in zip(said[a][:2], said[b][:2], strict=True))
        return value_or_choice and not contradict((a, b))

    fitting = {form: [other for other in forms if join(form, other)] for form in forms}
    vague = [form for form in forms if any(map(contradict, combinations(fitting[form], 2)))]
    if not vague:
        return _components(forms, join)
    if vague == forms:
        return _components(forms, lambda a, b: said[a] == said[b])
    return _settled([form for form in forms if form not in vague], said) + _settled(vague, said)


def _components(forms: Sequence[str], same: Callable[[str, str], bool]) -> list[list[str]]:
    """Connected components of the relation `same`."""
    components: list[list[str]] = []
    for form in forms:
        joined = [part for part in components if any(same(other, form) for other in part)]
        components = [part for part in components if part not in joined]
        components.append([form, *(other for part in joined for other in part)])
    return components
