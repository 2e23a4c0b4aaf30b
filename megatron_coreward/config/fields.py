"""The types that several keys share: bounds with their words, and the named defaults."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

STRICT = ConfigDict(
    strict=True, extra="forbid", allow_inf_nan=False, validate_assignment=True, use_attribute_docstrings=True
)
"""Nothing is converted to another type, except a whole number to a float."""

AtLeastOne = Annotated[int, Field(ge=1)]
AtLeastZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Off = Annotated[float, Field(ge=0, le=0)]
"""0: the option is off."""
Where = Literal["auto", "always", "never"]

OwnMethod = Annotated[
    str, Field(pattern=r"^\w+(\.\w+)*:\w+$", description="MODULE:NAME, a method of one's own")
]
Options = dict[str, bool | int | float | str]

MIN_TEMPERATURE = 0.01
"""vLLM raises lower ones to this, silently; it refuses those above 2."""
Temperature = Annotated[float, Field(ge=MIN_TEMPERATURE, le=2)]
MAX_SEED = 2**32 - 1  # numpy's

SYSTEM_PROMPT = "Let's think step by step and output the final answer within \\boxed{}."
"""The paper's system turn."""
DATA_SUFFIXES = (".parquet", ".json", ".jsonl", ".csv")
"""Of the files that are read for training and evaluation."""
