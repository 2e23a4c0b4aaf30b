"""A reward method of one's own: from `reward.method=MODULE:NAME` to the record that it names.

NAME is a judging.Method in MODULE, which is looked for where Python looks for modules and then in the folder
that the command is run from. What is wrong with it is found before a model is built: it is imported, and it
judges a made-up question.
"""

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from megatron_coreward.config.keys import nearest
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.judging import Answers, Group, Method, Source, judged, voted
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import Confidence, Response, View

FINGERPRINT = 12
"""Hexadecimal digits of a file's SHA-256."""
_MISTAKES = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError),
    *(RuntimeError, SyntaxError, TypeError, ValueError),
)
"""What somebody else's code may raise."""
_PACKAGE = Path(__file__).parents[2]
_OPTION_TYPES = (bool, int, float, str)


@cache
def load(name: str) -> Method:
    """The method `name`, MODULE:NAME, with its source.

    Raises:
        ValueError: the module cannot be imported or has no such method, or its record is not one.
    """
    module_name, _, attribute = name.partition(":")
    module = _imported(name, module_name)
    methods = [known for known, value in vars(module).items() if isinstance(value, Method)]
    method = vars(module).get(attribute)
    if not isinstance(method, Method):
        guess = nearest(attribute, methods)
        what = f"is a {type(method).__name__}" if attribute in vars(module) else "does not exist"
        raise ValueError(
            f"reward.method is {name!r}, but {attribute} {what} in {module.__file__}, where a Method must be "
            f"(docs/reward_methods.md); the methods in it: {', '.join(methods) or 'none'}."
            + (f" Did you mean {module_name}:{guess}?" if guess else "")
        )
    _check_record(name, method)
    file = Path(module.__file__ or "")
    return replace(method, source=Source(str(file), sha256(file.read_bytes()).hexdigest()[:FINGERPRINT]))


def _imported(name: str, module: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path:  # last, so that no file in it hides a module of Python's
        sys.path.append(folder)
    try:
        return import_module(module)
    except _MISTAKES as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"reward.method is {name!r}, but Python finds no module {error.name!r}, neither on its path "
                f"nor in the folder that the command is run from ({folder}). Run the command in the folder "
                "of the file, or put that folder into PYTHONPATH."
            ) from error
        raise ValueError(
            f"reward.method is {name!r}, but {module} cannot be imported: {_described(error)}. Mend it."
        ) from error


def _check_record(name: str, method: Method) -> None:
    for function, arguments in ((method.judge, "groups, config"), (method.signal, "response, config")):
        if function is not None and not _takes_two(function):
            raise ValueError(
                f"reward.method is {name!r}, but {function!r} is no function of two arguments "
                f"({arguments}). Mend it."
            )
    for option, default in method.options.items():
        if type(default) not in _OPTION_TYPES:
            raise ValueError(
                f"reward.method is {name!r}, but the default of its option {option} is {default!r}: it must "
                "be true or false, a number or a text."
            )


def _takes_two(function: Callable[..., object]) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    return True


def rehearse(config: Config, method: Method, views: Sequence[View]) -> None:
    """Lets the method judge four responses to a made-up question: 1, 1, 2 and no answer.

    Raises:
        ValueError: it fails, or does not give one finite reward per response.
    """
    classes, forms = [0, 0, 1, NO_ANSWER], ["1", "1", "2", ""]
    answers = voted(classes, forms, config.reward)
    try:
        groups = {
            view: Group(
                answers,
                [_signal(method, config, view, sample, form) for sample, form in enumerate(forms)],
                answers if method.teacher else Answers(),
                Answers([0], ["1"]) if method.truth else Answers(),
            )
            for view in views
        }
        judged(method, groups, config.reward)
    except _MISTAKES as error:
        raise ValueError(
            f"reward.method is {config.reward.method!r}, which fails on a made-up question with the answers "
            f"1, 1, 2 and none: {_described(error)}. Mend it."
        ) from error


def _signal(method: Method, config: Config, view: View, sample: int, form: str) -> float:
    if method.signal is None:
        return 0.0
    response = Response(
        *(0, view, sample, (1,), np.array([2, 3], dtype=np.int32), np.array([-0.5, -0.1], dtype=np.float32)),
        text=rf"So it is \boxed{{{form}}}." if form else "I do not know.",
        finish_reason="stop" if form else "length",
        weights_version=0,
        confidence=Confidence(1.0, 1.0) if method.confidence else None,
    )
    return float(method.signal(response, config))


def _described(error: BaseException) -> str:
    """The error in one line, with the last line of a file outside of this package on its way."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    ours = ("<", str(_PACKAGE))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    if isinstance(error, SyntaxError) or not frames:  # says where by itself
        return text
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})"
