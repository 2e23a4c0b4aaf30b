"""Figures of a probe, alarms and ratings, against values worked out by hand."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest

from megatron_coreward.coreward.voting import entropy
from megatron_coreward.evaluation.health import (
    AGREEMENT,
    BY_CHANCE,
    ENTROPY,
    FLIPPED,
    INFORMATION,
    KEPT,
    TOP,
    Majority,
    Prompt,
    chance_of,
    changes_of,
    figures_of,
    new_alarms,
    rating,
)

LN2 = math.log(2)


def prompt(greedy: str, sampled: str) -> Prompt:
    """A letter an answer, . for none."""
    return Prompt(greedy.replace(".", ""), tuple(answer.replace(".", "") for answer in sampled))


def test_entropy_counts_no_answer_as_an_answer() -> None:
    """The example of the band gate: A A A B B C D and none."""
    counts = (3, 2, 1, 1, 1)
    assert entropy(Counter(prompt("A", "AAABBCD.").sampled).values()) == pytest.approx(
        -sum(n / 8 * math.log(n / 8) for n in counts)
    )
    assert entropy(Counter(prompt("A", "AAABBCD.").sampled).values()) == pytest.approx(1.494, abs=1e-3)
    assert entropy(Counter(prompt(".", "....").sampled).values()) == 0


@pytest.mark.parametrize(
    ("sampled", "majority"),
    [
        ("AABC", Majority("A", 0.5)),
        ("BAAB", Majority("B", 0.5)),
        ("...C", Majority("C", 0.25)),
        ("....", Majority("", 0.0)),
    ],
)
def test_majorities(sampled: str, majority: Majority) -> None:
    assert prompt("A", sampled).majority == majority


def test_figures_of_two_pairs() -> None:
    """Entropies of the prompts in ln 2: 0, 1, 2 and 0. Pooled: A 6, B 3, C 1, D 1, none 5, of 16."""
    pairs = [
        (prompt("A", "AAAA"), prompt("A", "AABB")),
        (prompt("B", "BCD."), prompt(".", "....")),
    ]
    figures = figures_of(pairs)
    assert figures[ENTROPY] == pytest.approx((0 + 1 + 2 + 0) / 4 / 2)
    assert figures[AGREEMENT] == 0.5
    assert figures[TOP] == 6 / 16
    pooled = -sum(n / 16 * math.log(n / 16) for n in (6, 3, 1, 1, 5))
    assert figures[INFORMATION] == pytest.approx(pooled - 0.75 * LN2)


def test_two_wordings_without_an_answer_do_not_agree() -> None:
    nothing = prompt(".", "..")
    figures = figures_of([(nothing, nothing)])
    assert (figures[AGREEMENT], figures[TOP], figures[INFORMATION]) == (0, 0, 0)


def test_one_answer_to_everything_says_nothing() -> None:
    answers = [prompt(letter, 4 * letter) for letter in "ABCD"]
    assert figures_of([(a, a) for a in answers])[INFORMATION] == pytest.approx(2 * LN2)
    assert figures_of([(answers[0], answers[0])] * 4)[INFORMATION] == 0


def test_changes() -> None:
    """Three of four were sure at the start, two of them stay; before, three had one, and one has changed."""
    start = [Majority("A", 1.0), Majority("B", 0.75), Majority("C", 0.5), Majority("D", 0.75)]
    before = [Majority("A", 0.5), Majority("B", 0.5), Majority("", 0.0), Majority("D", 0.5)]
    changes = changes_of(start, [True, False, False, True], before, [True, False, False, True])
    assert changes == {KEPT: 2 / 3, FLIPPED: 1 / 3}
    assert changes_of([Majority("C", 0.5)], [True], [], []) == {}
    assert chance_of(start, [True, False, True, True]) == {BY_CHANCE: 2 / 3}
    assert chance_of([Majority("C", 0.5)], [True]) == {}


def probes(**values: Sequence[float]) -> list[dict[str, float]]:
    """A history with these figures; the others are those of a healthy run."""
    healthy = {"h": 0.8, "g": 0.5, "k": 1.0, "f": 0.4, "q": 0.1, "i": 2.0}
    names = {"h": ENTROPY, "g": AGREEMENT, "k": KEPT, "f": FLIPPED, "q": TOP, "i": INFORMATION}
    length = max(map(len, values.values()))
    history = [
        {"step": 5.0 * n}
        | {names[short]: values[short][n] if short in values else usual for short, usual in healthy.items()}
        for n in range(length)
    ]
    history[0][BY_CHANCE] = 0.7
    return history


def rung(history: list[dict[str, float]]) -> list[tuple[int, str]]:
    """Places and names of the alarms as they ring."""
    return [
        (n, text.partition(" alarm")[0]) for n in range(len(history)) for text in new_alarms(history[: n + 1])
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"h": [0.8, 0.41, 0.41, 0.41]}, []),
        ({"h": [0.8, 0.39, 0.39, 0.39]}, [(2, "coverage")]),
        ({"h": [0.8, 0.39, 0.41, 0.39, 0.39]}, [(4, "coverage")]),
        ({"h": [0.8, 0.39, 0.38, 0.37], "g": [0.5, 0.6, 0.7, 0.8]}, []),
        ({"h": [0.8, 0.39, 0.38, 0.37], "g": [0.5, 0.6, 0.6, 0.55]}, [(3, "coverage")]),
        ({"q": [0.1, 0.149, 0.149]}, []),
        ({"q": [0.1, 0.16, 0.1, 0.16]}, []),
        ({"q": [0.1, 0.16, 0.16, 0.3]}, [(2, "template")]),
        ({"i": [2.0, 1.81, 1.81]}, []),
        ({"i": [2.0, 1.79, 1.5]}, [(1, "template")]),
        ({"k": [1.0, 0.7, 0.7, 0.69]}, []),
        ({"k": [1.0, 0.69, 0.75, 0.69, 0.69]}, [(4, "forgetting")]),
        ({"f": [0.4, 0.4, 0.09], "h": [0.8, 0.6, 0.49]}, []),
        ({"f": [0.4, 0.4, 0.11], "h": [0.8, 0.6, 0.47]}, []),
        ({"f": [0.4, 0.4, 0.09], "h": [0.8, 0.6, 0.47]}, [(2, "extinction")]),
        ({"f": [0.0, 0.0, 0.0], "h": [0.8, 0.4, 0.4]}, []),
        ({"k": [1.0, 0.6, 0.6], "q": [0.1, 0.2, 0.2]}, [(2, "template"), (2, "forgetting")]),
    ],
)
def test_alarms_ring_once_where_their_rule_says(
    values: dict[str, list[float]], expected: list[tuple[int, str]]
) -> None:
    assert rung(probes(**values)) == expected


def test_alarms_without_sure_majorities_and_before_the_first_flips() -> None:
    history = probes(k=[0.5, 0.5, 0.5])
    for record in history:
        del record[KEPT], record[FLIPPED]
    del history[0][BY_CHANCE]
    assert rung(history) == []


def test_a_checkpoint_is_rated_by_three_probes_before_the_first_alarm() -> None:
    history = probes(g=[0.3, 0.6, 0.9, 0.6, 0.6, 0.6], q=[0.1, 0.1, 0.1, 0.1, 0.2, 0.2])
    ratings = [rating(history[: n + 1]) for n in range(len(history))]
    assert ratings == [None, None, pytest.approx(0.6), pytest.approx(0.7), pytest.approx(0.7), None]
    assert rating(probes(g=[0.5] * 6, k=[1.0, 0.6, 0.6, 1.0, 1.0, 1.0])) is None, "an alarm has rung before"
