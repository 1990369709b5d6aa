"""The temperature of distributions over classes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

#: From so many classes on the teacher's distribution tells enough as it is.
MANY = 500
#: What softens it below.
SOFT = 4.0
#: Of the next words of a text: as the teacher has them.
WORDS = 1.0

Temperature = Annotated[float, Field(gt=0, le=1000)] | Literal["auto"]


def number_of(temperature: float | Literal["auto"], classes: int) -> float:
    """The number that a temperature stands for: `auto` is 4 for few classes, 1 from 500 on.

    With few classes a teacher that is sure says little beside its answer; with a thousand the tail
    that a high temperature raises is noise: T = 1 is what re-runs on ImageNet use.
    """
    if temperature != "auto":
        return temperature
    return 1.0 if classes >= MANY else SOFT
