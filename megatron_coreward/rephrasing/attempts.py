"""Rephrasing questions with a language model: the prompt, the parsing of a response, and the attempts.

Departs from the authors' script, which takes the first pair of markers in a response, even where that is an
echo of its own template, and draws once. Here the last pair counts, every rephrasing is checked, and a faulty
one is drawn again with another seed. The prompt is our own.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from megatron_coreward.rephrasing.checks import Finding, check
from megatron_coreward.rephrasing.wrapping import unwrap

INSTRUCTION = """\
You are given a question from mathematics. Put it into other words, so that whoever solves your version does \
the same calculation and ends with the same answer.

- Keep every number, unit, formula and condition, and keep the form that the answer must have.
- Change wording and sentence structure. A question with a story gets another story; a bare formula may stay.
- Copy tables, multiple-choice options and figure code (such as [asy] ... [/asy]) without any change.
- Do not solve anything and do not comment.

Write your version inside one pair of tags, with nothing before or after it:
<rephrased>
YOUR NEW WORDING
</rephrased>

The question:
"""
"""The start of the prompt; the question follows."""

GENERATION_REASONS = {
    "too_long": "the prompt does not fit",
    "refused": "the endpoint does not take the question (it is too long, or a filter hits)",
    "unfinished": "cut off at the token limit",
    "unparsed": "no rephrasing in the response",
    "answers_differ": "the model answers the two wordings differently",
}
"""Reasons that only appear while rephrasing, besides checks.REASONS."""

_BLOCK = re.compile(r"<rephrased>((?:(?!<rephrased>).)*?)</rephrased>", re.DOTALL | re.IGNORECASE)
_OPEN_BLOCK = re.compile(r".*<rephrased>(.*)", re.DOTALL | re.IGNORECASE)
THOUGHT_START = "<think>"
_THOUGHTS = r"(?:think(?:ing)?|thoughts?|reasoning|analysis|scratchpad)"
_THOUGHT_START = re.compile(rf"<{_THOUGHTS}>|\[{_THOUGHTS}\]", re.IGNORECASE)
_THOUGHT_END = re.compile(rf"</{_THOUGHTS}>|\[/{_THOUGHTS}\]", re.IGNORECASE)


@dataclass(frozen=True)
class Drawn:
    """A response. `finished` is False if it was cut off at the token limit; if refused, `text` says why."""

    text: str
    finished: bool = True
    refused: bool = False


@dataclass(frozen=True)
class Rephrasing:
    """The result for a question: accepted if the last attempt has no findings, here by reason and detail."""

    row: int
    original: str
    rephrased: str
    attempts: int
    reasons: Sequence[str] = ()
    details: Sequence[str] = ()


Draw = Callable[[int, Mapping[int, str]], Mapping[int, Drawn]]
"""(attempt, question by row) -> response by row; a row whose prompt is too long has none."""

Compare = Callable[[int, Mapping[int, tuple[str, str]]], Mapping[int, Finding]]
"""(attempt, both wordings by row) -> fault by row, where the answers differ."""


def message(question: str) -> str:
    """The user turn that asks for a rephrasing."""
    return f"{INSTRUCTION}{question}"


def parse(drawn: Drawn) -> str | None:
    """The rephrasing in a response, the last if there are several; None if there is none.

    What is thought is not read, nor is anything in thoughts that do not end.
    """
    text = _THOUGHT_END.split(drawn.text)[-1]
    if _THOUGHT_START.search(text):
        return None
    blocks = list(_BLOCK.finditer(text))
    open_block = _OPEN_BLOCK.match(text, blocks[-1].end() if blocks else 0)
    if open_block and not drawn.finished:
        return None
    if blocks:
        return unwrap(blocks[-1][1])
    return unwrap(open_block[1]) if open_block else None  # the end tag was taken for the end


def rephrase(
    questions: Mapping[int, str],
    attempts: int,
    draw: Draw,
    compare: Compare | None = None,
    keep: Collection[str] = (),
) -> list[Rephrasing]:
    """Rephrases all questions, given by row, and draws again what fails a check, up to `attempts` times.

    Args:
        compare: asked about what passes the checks.
        keep: reasons that are not faults.

    Returns:
        One result per question, by row.
    """
    results: dict[int, Rephrasing] = {}
    pending = dict(questions)
    for attempt in range(attempts):
        drawn = draw(attempt, pending)
        judged = {row: _judge(question, drawn.get(row)) for row, question in pending.items()}
        faults = {
            row: [finding for finding in findings if finding.reason not in keep]
            for row, (_, findings) in judged.items()
        }
        if compare is not None:
            passed = {row: (pending[row], judged[row][0]) for row in pending if not faults[row]}
            faults |= {row: [fault] for row, fault in compare(attempt, passed).items()}
        for row, findings in faults.items():
            reasons, details = [fault.reason for fault in findings], [fault.detail for fault in findings]
            results[row] = Rephrasing(row, pending[row], judged[row][0], attempt + 1, reasons, details)
        pending = {row: questions[row] for row in pending if faults[row] and row in drawn}
        if not pending:
            break
    return [results[row] for row in sorted(results)]


def _judge(question: str, drawn: Drawn | None) -> tuple[str, list[Finding]]:
    if drawn is None or drawn.refused:
        return "", [Finding("refused", drawn.text) if drawn else Finding("too_long")]
    rephrased = parse(drawn)
    if rephrased is None:
        return drawn.text, [Finding("unparsed" if drawn.finished else "unfinished")]
    return rephrased, check(question, rephrased, INSTRUCTION)
