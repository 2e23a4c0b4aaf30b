"""Worker process of workers.py: reads and compares answers with math-verify.

Started as a script, so that it imports nothing of the run (no torch, no vLLM) and is ready in under a
second. It answers one task at a time on a socket inherited from its parent, and leaves when the parent
does. The operating system ends it when a task takes too much CPU time or memory: sympy can spend hours, or
all memory, on a short expression, inside C code that no Python exception reaches.
"""

import cmath
import logging
import os
import re
import resource
import signal
import sys
from functools import lru_cache, partial
from hashlib import blake2b
from multiprocessing.connection import Connection

from antlr4.atn.PredictionMode import PredictionMode
from antlr4.error.Errors import ParseCancellationException
from antlr4.error.ErrorStrategy import BailErrorStrategy, DefaultErrorStrategy
from latex2sympy2_extended import NormalizationConfig, latex2sympy2
from latex2sympy2_extended.antlr_parser import PSParser
from math_verify import LatexExtractionConfig, parse, verify
from sympy import And, Basic, Eq, Expr, Float, MatrixBase, S, Tuple, oo, sin
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction
from sympy.sets.sets import Complement, FiniteSet, Interval, Set, Union

READY = "ready"
_WARM_UP = (r"\frac{1}{2}x<\sin(1)", r"x<2\sin(1)")
"""The first comparison is slow (tables, lazy imports); it must not count as the first task's time."""
PARENT_CHECK_S = 5.0
_NORMALIZATION = NormalizationConfig(
    basic_latex=True,
    units=False,  # it would take "3t" for 3, too; normal forms have their units split off
    malformed_operators=True,
    nits=True,
)
_LATEX = LatexExtractionConfig(boxed_match_priority=0, normalization_config=_NORMALIZATION)
LOWS = (1, 0)
"""Least value of a letter at the first two of values.POINTS; this script imports nothing of the package."""
_ROUNDING = 12
"""Decimals to which math-verify compares floats: a rounded number is another answer."""
_LETTER_POWER = re.compile(r"(?<![a-zA-Z\\_])([a-df-hj-zA-HJ-Z])\^(?=(?:\d|\{\d+\})(?!_))")
"""`x^2`, for which the fast prediction finds no tree, though it does for `{x}^2`, which has the same one. Not
`x^2_1`, and not e, i and I, which math-verify reads as numbers."""
_NO_NUMBER = (
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    RecursionError,
    MemoryError,
)
"""What sympy raises where an expression has no numeric value."""


class TwoStageParser(PSParser):
    """math-verify's parser, which tries ANTLR's fast prediction (SLL) before the full one (LL).

    Where SLL finds a tree it is the tree of LL (antlr4.atn.PredictionMode says so), and where it finds none
    LL decides as before. LL takes most of the time that reading an answer does.
    """

    def math(self) -> PSParser.MathContext:
        self._errHandler = BailErrorStrategy()
        self._interp.predictionMode = PredictionMode.SLL
        try:
            return super().math()
        except ParseCancellationException:
            self.reset()
        self._errHandler = DefaultErrorStrategy()
        self._interp.predictionMode = PredictionMode.LL
        return super().math()


def read_in_two_stages() -> None:
    """Has math-verify use TwoStageParser in this process. It has no setting for its parser."""
    latex2sympy2.PSParser = TwoStageParser


def main(descriptor: int, cpu_s: float, memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    logging.disable()
    read_in_two_stages()
    parent = os.getppid()
    compare(*_WARM_UP)
    with Connection(descriptor) as connection:
        connection.send(READY)
        while True:
            while not connection.poll(PARENT_CHECK_S):
                if os.getppid() != parent:
                    return
            try:
                task, *forms = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            signal.setitimer(signal.ITIMER_PROF, cpu_s)  # SIGPROF, unhandled, ends the process
            result = read(*forms) if task == "read" else compare(*forms)
            left_s, _ = signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send((result, cpu_s - left_s))


@lru_cache(maxsize=4096)
def parsed(form: str) -> list[Basic | MatrixBase | str]:
    return parse(f"\\boxed{{{easier(form)}}}", [_LATEX], parsing_timeout=None)


def easier(form: str) -> str:
    """The same expression, spelled so that it is read faster."""
    calls = "(" in form  # `f(x^2)` and `f^2(x)` are no products, `f({x}^2)` and `{f}^2(x)` are
    return form if calls else _LETTER_POWER.sub(r"{\1}^", form)


def read(form: str) -> tuple[str, list[complex] | None]:
    """What kind of thing a form is, and numbers that equal things share (None: unknown).

    Kinds: "text" (not mathematics, or a number that cannot be computed), "relation" (a number each, unchanged
    when both sides are scaled), "value".
    """
    expressions = [item for item in parsed(form) if not isinstance(item, str)]
    if not expressions:
        return "text", None
    expression = expressions[0]
    kind = "relation" if isinstance(expression, (Relational, And)) else "value"
    try:
        return kind, _numbers(expression)
    except _NO_NUMBER:
        # What has no number would be compared with everything, and it is what comparisons hang on.
        hopeless = isinstance(expression, Expr) and not expression.has(AppliedUndef)
        return "text" if hopeless else kind, None


def _numbers(expression: Basic | MatrixBase) -> list[complex] | None:
    if isinstance(expression, Relational):
        difference = expression.lhs - expression.rhs
        return [_number(difference, 0) / _number(difference, 1)]
    if isinstance(expression, MatrixBase):
        return [_number(item) for item in expression.flat()]
    if isinstance(expression, (FiniteSet, Tuple)) or _is_chain(expression):
        nested = [_numbers(item) for item in expression.args]
        known = [numbers for numbers in nested if numbers is not None]
        return sum(known, []) if len(known) == len(nested) else None
    if isinstance(expression, Interval):
        return [_number(expression.start), _number(expression.end)]
    if isinstance(expression, (Complement, Union)):
        return _numbers_of_set(expression.doit())
    if isinstance(expression, (Set, BooleanFunction, BooleanAtom)):  # a Symbol is a Boolean, too
        return None
    return [_number(expression)]


def _numbers_of_set(result: Set) -> list[complex] | None:
    r"""Of what `[0,3]\setminus\{1\}` and such come to; a single number is `[3,3]`, as in values.union."""
    parts = result.args if isinstance(result, Union) else (result,)
    numbers: list[complex] = []
    for part in parts:
        found = _numbers(part) if isinstance(part, (Interval, FiniteSet)) else None
        if found is None and part != S.EmptySet:
            return None
        single = isinstance(part, FiniteSet) and len(parts) > 1
        numbers += [number for number in found or [] for _ in range(1 + single)]
    return numbers


def _is_chain(expression: Basic | MatrixBase) -> bool:
    """Whether it is `a<b=c`, which is equal relation by relation. Of `a=b=c` the middle does not count."""
    return isinstance(expression, And) and not all(isinstance(part, Eq) for part in expression.args)


def _number(expression: Basic, point: int = 0) -> complex:
    """The expression's value where every symbol is what values.letter makes of its name at this point.

    What is equal for any function `f` is equal for the one that stands for it here.
    """
    if expression.has(AppliedUndef):
        expression = expression.replace(
            lambda part: isinstance(part, AppliedUndef), partial(_some_function, point=point)
        )
    at = {s: Float(LOWS[point] + _share(point, s.name)) for s in expression.free_symbols}
    number = complex(expression.evalf(subs=at))
    if not cmath.isfinite(number) and expression not in (oo, -oo):
        raise ValueError("not a number")
    return number


def _some_function(call: AppliedUndef, point: int) -> Expr:
    """Tells names, arguments and their order apart, large ones as well: a power would outgrow all else."""
    share = Float(_share(point, call.func.__name__))
    return share + sum(sin((1 + share) * argument + place) for place, argument in enumerate(call.args))


def _share(point: int, name: str) -> float:
    return (int.from_bytes(blake2b(f"{point}{name}".encode(), digest_size=2).digest()) | 1) / (1 << 16)


def compare(a: str, b: str) -> bool:
    """Equal in both directions: math-verify is not symmetric (it takes `2x+z=5` for 5, but not 5 for it)."""

    def implies(gold: str, target: str) -> bool:
        return verify(parsed(gold), parsed(target), float_rounding=_ROUNDING, timeout_seconds=None)

    return implies(a, b) and implies(b, a)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
