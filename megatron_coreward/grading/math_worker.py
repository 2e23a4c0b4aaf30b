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
from sympy import Basic, Float, Rational

_WARM_UP = (r"\arcsin(\frac{1}{2}+x)", (("x", ("1/2", "1/3")),))
"""The first task is slow (tables, lazy imports), which must not count as its time."""
MEMORY_LIMIT_BYTES = 2 << 30
_DIGITS = 75
_NO_NUMBER = (TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)
Letters = tuple[tuple[str, tuple[str, ...]], ...]
"""Names of letters, and what each of them stands for at every point."""


class TwoStageParser(PSParser):
    """math-verify's parser, which tries ANTLR's fast prediction (SLL) before the full one (LL).

    Where SLL finds a tree it is the tree of LL (antlr4.atn.PredictionMode says so); LL takes long.
    """

    def math(self) -> PSParser.MathContext:
        self.removeErrorListeners()  # they raise a bare Exception
        self._errHandler = BailErrorStrategy()
        self._interp.predictionMode = PredictionMode.SLL
        try:
            return super().math()
        except ParseCancellationException:
            self.reset()
        self._interp.predictionMode = PredictionMode.LL
        return super().math()


def main(timeout_s: float, budget_s: float) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    latex2sympy2.PSParser = TwoStageParser  # math-verify has no setting for its parser
    read(*_WARM_UP)
    sys.stdout.write("ready\n")
    for term in json.load(sys.stdin):
        sys.stdout.flush()
        if budget_s <= 0:
            return
        signal.setitimer(signal.ITIMER_PROF, timeout_s)  # SIGPROF, unhandled, ends the process
        numbers = read(*term)
        cpu_s = timeout_s - signal.setitimer(signal.ITIMER_PROF, 0)[0]
        budget_s -= cpu_s
        sys.stdout.write(json.dumps((numbers, cpu_s)) + "\n")


def read(text: str, letters: Letters) -> list[str | None]:
    """The real number that a term is at each point (one without letters); None: not known, or not real."""
    try:
        term = latex2sympy2.latex2sympy(text, normalization_config=None)
    except (ParseCancellationException, *_NO_NUMBER):
        return [None]
    names = [name for name, _ in letters]
    points = zip(*(at for _, at in letters), strict=True) if letters else [()]
    return [_number(term, dict(zip(names, point, strict=True))) for point in points]


def _number(term: Basic, values: dict[str, str]) -> str | None:
    at = {symbol: Float(Rational(values[symbol.name]), _DIGITS) for symbol in term.free_symbols}
    try:
        real, imaginary = term.xreplace(at).evalf(_DIGITS).as_real_imag()
        known = (real.is_Float or real.is_Rational) and abs(imaginary) < 1e-60
        return str(Float(real, _DIGITS)) if known else None
    except _NO_NUMBER:  # what sympy raises for what has no numeric value
        return None


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
