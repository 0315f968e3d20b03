"""Ranges of numbers: what may be one, and how its values map to [0, 1]."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
from jaxtyping import Float64

from .errors import InvalidInput

Numbers = Float64[np.ndarray, "..."]


def scale(values: Numbers, low: float, high: float, log: bool) -> Numbers:
    if log:
        return np.log(values / low) / math.log(high / low)
    return (values - low) / (high - low)


def unscale(u: Numbers, low: float, high: float, log: bool) -> Numbers:
    values = low * np.exp(u * math.log(high / low)) if log else low + u * (high - low)
    return np.where(u <= 0, low, np.where(u >= 1, high, np.clip(values, low, high)))  # end points exactly


def real(value: Any, field: str) -> float:
    number = as_float(value)
    if not math.isfinite(number):
        raise InvalidInput(field, "a finite number", value)
    return number


def as_float(value: Any) -> float:
    """``value`` as a float; NaN for what is no number, infinity for whole numbers beyond all floats."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def whole(value: Any, field: str) -> int:
    number = as_float(value)
    if not number.is_integer():
        raise InvalidInput(field, "a whole number", value)
    if abs(number) > 2**53:
        raise InvalidInput(field, "a whole number of at most 2^53 in size", value)
    return int(number)


def check_bounds(low: float, high: float) -> None:
    if not low < high:
        raise InvalidInput("low", f"a number below high ({high!r})", low)
    if not math.isfinite(high - low):
        raise InvalidInput("high", "a range high - low that is a finite number", high)


def check_log(log: bool, low: float) -> None:
    if not isinstance(log, bool):
        raise InvalidInput("log", "true or false", log)
    if log and low <= 0:
        raise InvalidInput("low", "a positive number, because log is true", low)
