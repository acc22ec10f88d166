"""Pages about a dictionary that other packages add."""

from collections.abc import Callable
from typing import Any, NamedTuple

from markupsafe import Markup

from itda.plugins import Registry
from itda.view.records import Records


class View(NamedTuple):
    """A page of a dictionary."""

    title: str
    render: Callable[[Records], Markup | str]
    """What stands below the title; text is escaped, markup stands as it is. A page runs no scripts of others."""


def _accepted(name: str, added: Any) -> View:
    if not isinstance(added, View):
        raise TypeError("it must be an itda.view.views.View")
    return added


VIEWS: Registry[View] = Registry("itda.views", {}, _accepted)
"""By name; see `itda.plugins`."""
