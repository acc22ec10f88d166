"""Checks that every step's options share."""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from itda.errors import OptionError

Options = TypeVar("Options")


def checked(kind: Callable[..., Options], given: dict[str, Any]) -> Options:
    """The options as their dataclass.

    Raises: OptionError for a name that the dataclass does not have, with those it has.
    """
    known = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise OptionError(f"There is no option {', '.join(map(repr, unknown))}. The options are {', '.join(known)}.")
    return kind(**given)


def as_python(value: Any) -> Any:
    """A number of NumPy as Python's own, in dicts too; anything else stays what it is."""
    if isinstance(value, dict):
        return {name: as_python(one) for name, one in value.items()}
    if isinstance(value, np.bool_ | np.integer | np.floating):
        kind = bool if isinstance(value, np.bool_) else int if isinstance(value, np.integer) else float
        return kind(value)
    return value


def in_python(options: Any) -> None:
    """Make numbers of NumPy in a dataclass Python's own, which files can hold and everything takes."""
    for name, value in vars(options).items():
        if isinstance(value, np.generic | dict):
            object.__setattr__(options, name, as_python(value))


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of Python or NumPy."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a real number, of Python or NumPy; NaN and infinity are."""
    return is_whole(value) or isinstance(value, float | np.floating)


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """The number as Python's own, if it is a whole one of at least `least`.

    Raises: OptionError.
    """
    if not is_whole(value) or value < least:
        raise OptionError(f"{name} must be a whole number of at least {least}. Got {value!r} instead.")
    return int(value)


def seed_number(value: Any) -> int:
    """The number as Python's own, if it is a seed: a whole one of 32 bits, which every generator takes.

    Raises: OptionError.
    """
    whole("seed", value, least=0)
    if value >= 2**32:
        raise OptionError(f"seed must be below 2**32. Got {value} instead.")
    return int(value)


def flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Raises: OptionError.
    """
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False. Got {value!r} instead.")


def _real(value: Any) -> float:
    """The number as Python's own, NaN for anything else; one that float has no room for is none."""
    try:
        return float(value) if is_number(value) else math.nan
    except OverflowError:
        return math.nan


def seconds(name: str, value: Any) -> float:
    """The number as Python's own, if it is a number of seconds.

    Raises: OptionError.
    """
    number = _real(value)
    if not 0 <= number < math.inf:
        raise OptionError(f"{name} must be a number of seconds, 0 or more. Got {value!r} instead.")
    return number


def share(name: str, value: Any) -> float:
    """The number as Python's own, if it is a number above 0 and below 1.

    Raises: OptionError.
    """
    number = _real(value)
    if not 0 < number < 1:
        raise OptionError(f"{name} must be a number between 0 and 1. Got {value!r} instead.")
    return number


def above_zero(name: str, value: Any) -> float:
    """The number as Python's own, if it is a finite number above 0.

    Raises: OptionError.
    """
    number = _real(value)
    if not 0 < number < math.inf:
        raise OptionError(f"{name} must be a finite number above 0. Got {value!r} instead.")
    return number


def finite_number(name: str, value: Any) -> float:
    """The number as Python's own, if it is a finite number.

    Raises: OptionError.
    """
    number = _real(value)
    if not abs(number) < math.inf:
        raise OptionError(f"{name} must be a finite number. Got {value!r} instead.")
    return number


def listed(name: str, value: Any) -> list[Any]:
    """What is given as several, as a list.

    Raises: OptionError for a text alone, or what is not several.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise OptionError(f"{name} must be a list. Got {type(value).__name__} instead.")
    return list(value)


def several(name: str, value: Any) -> list[str]:
    """One text, or several different ones, as a list.

    Raises: OptionError for none, or what is there twice.
    """
    found = [value] if isinstance(value, str) else listed(name, value)
    if not found or len(set(found)) < len(found):
        raise OptionError(f"{name} must be different places, at least one. Got {found}.")
    return found


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse what is not one of the allowed words.

    Raises: OptionError.
    """
    if not isinstance(value, str) or value not in allowed:
        raise OptionError(f"{name} must be one of {', '.join(allowed)}. Got {value!r} instead.")
