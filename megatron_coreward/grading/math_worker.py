"""Worker process of workers.py: computes terms, which math-verify reads and sympy evaluates.

Started as a script, so that it imports nothing of the run (no torch, no vLLM) and is ready in under a
second. It answers one task at a time on a socket inherited from its parent, and leaves when the parent does.
The operating system ends it when a task takes too much CPU time or memory: sympy can spend hours, or all
memory, on a short expression, inside C code that no Python exception reaches.
"""

import logging
import os
import resource
import signal
import sys
from multiprocessing.connection import Connection

from antlr4.atn.PredictionMode import PredictionMode
from antlr4.error.Errors import ParseCancellationException
from antlr4.error.ErrorStrategy import BailErrorStrategy, DefaultErrorStrategy
from latex2sympy2_extended import NormalizationConfig, latex2sympy2
from latex2sympy2_extended.antlr_parser import PSParser
from math_verify import LatexExtractionConfig, parse
from sympy import Expr, Float, Rational

READY = "ready"
_WARM_UP = (r"\sin(\frac{1}{2}+x)", (("x", ("1/2", "1/3")),))
"""The first task is slow (tables, lazy imports), which must not count as its time."""
PARENT_CHECK_S = 5.0
_DIGITS = 75
_LATEX = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True
    ),
)
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
Letters = tuple[tuple[str, tuple[str, ...]], ...]
"""Names of letters, and what each of them stands for at every point."""


class TwoStageParser(PSParser):
    """math-verify's parser, which tries ANTLR's fast prediction (SLL) before the full one (LL).

    Where SLL finds a tree it is the tree of LL (antlr4.atn.PredictionMode says so), and where it finds none
    LL decides as before. LL takes most of the time that reading a term does.
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


def main(descriptor: int, cpu_s: float, memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    logging.disable()
    latex2sympy2.PSParser = TwoStageParser  # math-verify has no setting for its parser
    parent = os.getppid()
    read(*_WARM_UP)
    with Connection(descriptor) as connection:
        connection.send(READY)
        while True:
            while not connection.poll(PARENT_CHECK_S):
                if os.getppid() != parent:
                    return
            try:
                task = connection.recv()
            except (EOFError, ConnectionResetError):
                return
            signal.setitimer(signal.ITIMER_PROF, cpu_s)  # SIGPROF, unhandled, ends the process
            result = read(*task)
            left_s, _ = signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send((result, cpu_s - left_s))


def read(text: str, letters: Letters) -> list[str | None]:
    """The real number that a term is at each point (one without letters); None: not known, or not real."""
    found = parse(f"\\boxed{{{text}}}", [_LATEX], parsing_timeout=None)
    known = bool(found) and isinstance(found[0], Expr)
    points = range(len(letters[0][1]) if letters else 1)
    return [
        _number(found[0], {name: at[point] for name, at in letters}) if known else None for point in points
    ]


def _number(expression: Expr, values: dict[str, str]) -> str | None:
    at = {symbol: Float(Rational(values[symbol.name]), _DIGITS) for symbol in expression.free_symbols}
    try:
        real, imaginary = expression.xreplace(at).evalf(_DIGITS).as_real_imag()
        known = real.is_Float or real.is_Rational
        return str(Float(real, _DIGITS)) if known and abs(imaginary) < 1e-60 else None
    except _NO_NUMBER:
        return None


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
