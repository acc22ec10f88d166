"""Things by name that other packages can add to: an entry point of the group, in their pyproject.toml.

    [project.entry-points."itda.operators"]
    clamp = "my_package:clamp"

Groups: `itda.builders`, `itda.measures`, `itda.operators`, `itda.views`; examples/plugin adds one of each. Looking at
names loads nothing; a package is imported when its thing is used.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from itda.errors import OptionError

T = TypeVar("T")


class PluginWarning(UserWarning):
    """A package adds something under a name that is taken."""


class Registry(Mapping[str, T]):
    """Our own things by name, and behind them those that other packages add."""

    def __init__(self, group: str, own: Mapping[str, T], accept: Callable[[str, Any], T]) -> None:
        """Things of a group.

        Args:
            group: of the entry points.
            own: ours.
            accept: makes one of what an entry point names, given its name and the object, or raises a TypeError that
                says what it must be.
        """
        self.group, self._own, self._accept = group, dict(own), accept
        self._loaded: dict[str, T] = {}

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            if point.name in self._own or point.name in found:
                where = point.dist.name if point.dist else point.value
                warnings.warn(
                    f"{where} adds {point.name!r} to {self.group}, a name that is taken: it is left out.",
                    PluginWarning,
                    stacklevel=3,
                )
                continue
            found[point.name] = point
        return found

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._added

    def __len__(self) -> int:
        return len(self._own) + len(self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added

    def __getitem__(self, name: str) -> T:
        """The thing of that name.

        Raises: KeyError if there is none; OptionError if the package that adds it cannot be used.
        """
        if name in self._own:
            return self._own[name]
        if name not in self._loaded:
            point = self._added[name]
            try:
                self._loaded[name] = self._accept(name, point.load())
            except Exception as error:  # whatever a package of someone else's leads to
                where = point.dist.name if point.dist else point.value
                raise OptionError(
                    f"{name!r} is added by the package {where} and cannot be used: {type(error).__name__}: {error}"
                ) from error
        return self._loaded[name]
