"""Worker process of workers.py: computes terms, which math-verify's parser reads and sympy evaluates.

Started as a script, so that it imports nothing of the run (no torch, no vLLM) and is ready in under a
second. It answers one task at a time on a socket inherited from its parent, and leaves when the parent does.
The operating system ends it when a task takes too much CPU time or memory: sympy can spend hours, or all
memory, on a short expression, inside C code that no Python exception reaches.
"""

import os
import resource
import signal
import sys
from multiprocessing.connection import Connection

from antlr4.atn.PredictionMode import PredictionMode
from antlr4.error.Errors import ParseCancellationException
from antlr4.error.ErrorStrategy import BailErrorStrategy
from latex2sympy2_extended import latex2sympy2
from latex2sympy2_extended.antlr_parser import PSParser
from sympy import Expr, Float, Rational

_WARM_UP = (r"\arcsin(\frac{1}{2}+x)", (("x", ("1/2", "1/3")),))
"""The first task is slow (tables, lazy imports), which must not count as its time."""
PARENT_CHECK_S = 5.0
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


def main(descriptor: int, cpu_s: float, memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    latex2sympy2.PSParser = FastParser  # math-verify has no setting for its parser
    parent = os.getppid()
    read(*_WARM_UP)
    with Connection(descriptor) as connection:
        connection.send("ready")
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
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
