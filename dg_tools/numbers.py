"""Checks of numeric arguments: Python numbers, numpy numbers and tensors with one element are accepted."""

from __future__ import annotations

import math
import operator
from typing import Any


def is_boolean(value: Any) -> bool:
    """Whether a value is True or False, of Python, numpy or torch."""
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def is_several(value: Any) -> bool:
    """Whether a value is a sequence, and not a single number of numpy or torch."""
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes) and getattr(value, "ndim", 1) > 0


def integer(value: Any, name: str) -> int:
    """A whole number as a plain int.

    Raises:
        TypeError: something else: a float, a string, True.

    Example:
        >>> import numpy as np
        >>> integer(np.int64(3), "block")
        3
        >>> integer(1.9, "block")
        Traceback (most recent call last):
        TypeError: block=1.9; a whole number is needed
    """
    try:
        if not is_boolean(value):
            return operator.index(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{name}={value!r}; a whole number is needed")


def integers(values: Any, name: str) -> tuple[int, ...]:
    """One whole number or several, as a tuple.

    Raises:
        TypeError: something else, such as a string, floats, or a mask of True and False.

    Example:
        >>> integers(3, "channels"), integers([3, 7], "channels")
        ((3,), (3, 7))
    """
    items = tuple(values) if is_several(values) else (values,)
    if is_several(values) and items and all(is_boolean(item) for item in items):
        raise TypeError(
            f"{name} is a mask of True and False, and the indices are needed: pass np.flatnonzero(mask).tolist()"
        )
    try:
        return tuple(integer(item, name) for item in items)
    except TypeError:
        raise TypeError(f"{name}={values!r}; whole numbers are needed, such as [3, 7]") from None


def number(value: Any, name: str) -> float:
    """A finite number as a Python float.

    Raises:
        TypeError: something else, such as a string.
        ValueError: NaN, or an infinity.

    Example:
        >>> import numpy as np
        >>> number(np.float32(0.5), "rho")
        0.5
    """
    if type(value) not in (int, float):
        try:
            if is_boolean(value) or isinstance(value, str | bytes):
                raise TypeError
            value = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name}={value!r}; a number is needed") from None
    if not math.isfinite(value):
        raise ValueError(f"{name}={value}; a finite number is needed")
    return value
