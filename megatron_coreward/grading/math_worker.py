"""Process of workers.py: computes terms, which math-verify's parser reads and sympy evaluates.

Started as a script, so that it imports nothing of the run (no torch, no vLLM) and is ready in a second. It
prints a line for each of the terms that come in, and has nobody to print to when its parent ends. The
operating system ends it when a term takes too much CPU time or memory: sympy can spend hours, or all memory,
on a short expression, inside C code that no Python exception reaches.
"""

import json
import resource
import signal
import sys

from antlr4.atn.PredictionMode import PredictionMode
from antlr4.error.Errors import ParseCancellationException
from antlr4.error.ErrorStrategy import BailErrorStrategy
from latex2sympy2_extended import latex2sympy2
from latex2sympy2_extended.antlr_parser import PSParser
from sympy import Expr, Float, Rational

_WARM_UP = (r"\arcsin(\frac{1}{2}+x)", (("x", ("1/2", "1/3")),))
"""The first task is slow (tables, lazy imports), which must not count as its time."""
MEMORY_LIMIT_BYTES = 2 << 30
_DIGITS = 75
_NO_NUMBER = (TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
"""What sympy raises where an expression has no numeric value."""
Letters = tuple[tuple[str, tuple[str, ...]], ...]
"""Names of letters, and what each of them stands for at every point."""


class FastParser(PSParser):
    """math-verify's parser with ANTLR's fast prediction (SLL) instead of the full one (LL).

    Where SLL finds a tree it is the tree of LL (antlr4.atn.PredictionMode says so); it finds one for every
    term of the grammar that reader.py lists. LL takes most of the time that reading a term does.
    """

    def math(self) -> PSParser.MathContext:
        self._errHandler = BailErrorStrategy()
        self._interp.predictionMode = PredictionMode.SLL
        return super().math()


def main(timeout_s: float, budget_s: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    latex2sympy2.PSParser = FastParser  # math-verify has no setting for its parser
    read(*_WARM_UP)
    _say("ready")
    for term in json.load(sys.stdin):
        if budget_s <= 0:
            return
        signal.setitimer(signal.ITIMER_PROF, timeout_s)  # SIGPROF, unhandled, ends the process
        numbers = read(*term)
        left_s, _ = signal.setitimer(signal.ITIMER_PROF, 0)
        budget_s -= timeout_s - left_s
        _say(json.dumps((numbers, timeout_s - left_s)))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def read(text: str, letters: Letters) -> list[str | None]:
    """The real number that a term is at each point (one without letters); None: not known, or not real."""
    points = range(len(letters[0][1]) if letters else 1)
    try:
        term = latex2sympy2.latex2sympy(text, normalization_config=None)
    except (ParseCancellationException, *_NO_NUMBER):
        term = None
    if not isinstance(term, Expr):
        return [None for _ in points]
    return [_number(term, {name: at[point] for name, at in letters}) for point in points]


def _number(term: Expr, values: dict[str, str]) -> str | None:
    at = {symbol: Float(Rational(values[symbol.name]), _DIGITS) for symbol in term.free_symbols}
    try:
        real, imaginary = term.xreplace(at).evalf(_DIGITS).as_real_imag()
        known = real.is_Float or real.is_Rational
        return str(Float(real, _DIGITS)) if known and abs(imaginary) < 1e-60 else None
    except _NO_NUMBER:
        return None


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
