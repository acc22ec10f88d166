"""Pages of docs/reference: every public name by its docstring, as Sphinx directives."""

import importlib
import inspect
from typing import Any

PAGES = {
    "itda": ("itda",),
    "pursuit": ("itda.pursuit",),
    "building": ("itda.building.request", "itda.capturing"),
    "compare": ("itda.compare",),
    "steer": ("itda.steer",),
    "evaluation": ("itda.evaluation",),
    "view": ("itda.view.preparing", "itda.view.figures", "itda.view.neuronpedia", "itda.view.views"),
    "scale": ("itda.scale", "itda.planning"),
    "adapters": (
        "itda.adapters.saelens", "itda.adapters.sparsify", "itda.adapters.dictionary_learning",
        "itda.adapters.autoencoders", "itda.adapters.saebench", "itda.adapters.transformer_lens",
        "itda.adapters.processors", "itda.adapters.nnsight", "itda.adapters.gguf", "itda.adapters.tensorboard",
        "itda.adapters.wandb", "itda.publishing",
    ),
    "errors": ("itda.errors", "itda.logs", "itda.plugins"),
}  # fmt: skip


def index() -> str:
    """The page that lists the others."""
    return "\n".join(
        ["# Reference", "", "Every public name, from its docstring.", "", "```{toctree}", ":maxdepth: 2", "",
         *PAGES, "```", ""]
    )  # fmt: skip


def pages() -> dict[str, str]:
    """The text of every page by its name; a name that several modules offer is described on the first page."""
    seen: set[int] = set()
    return {name: _page(name, seen) for name in PAGES}


def _page(name: str, seen: set[int]) -> str:
    parts = [f"# {name}", ""]
    for module in map(importlib.import_module, PAGES[name]):
        if len(PAGES[name]) > 1:
            parts += [f"## {module.__name__}", ""]
        parts += ["```{eval-rst}", f".. automodule:: {module.__name__}", "   :no-members:", ""]
        # Modules last: what they hold may be offered by name too
        for public in sorted(names(module), key=lambda name: inspect.ismodule(getattr(module, name))):
            value = getattr(module, public)
            if id(value) not in seen:
                seen.add(id(value))
                parts += directive(module, public, seen)
        parts += ["```", ""]
    return "\n".join(parts)


def names(module: Any) -> list[str]:
    """What a module offers: what it lists, or what it defines and does not hide."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("_")]
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return [name for name in own if not name.startswith("_") and callable(getattr(module, name))]


def directive(module: Any, name: str, seen: set[int]) -> list[str]:
    """How Sphinx is told of it."""
    value = getattr(module, name)
    home = getattr(value, "__module__", None)
    if inspect.ismodule(value):
        if value.__name__.rpartition(".")[2] in PAGES:  # it has a page of its own
            return []
        own = [directive(value, one, seen) for one in names(value) if id(getattr(value, one)) not in seen]
        seen.update(id(getattr(value, one)) for one in names(value))
        return [f".. automodule:: {value.__name__}", "   :no-members:", "", *(line for lines in own for line in lines)]
    if inspect.isclass(value):
        return [f".. autoclass:: {module.__name__}.{name}", "   :members:", "   :show-inheritance:", ""]
    if isinstance(value, dict):  # what is in it is on a page of its own
        return []
    if callable(value) and home:
        return [f".. autofunction:: {module.__name__}.{name}", ""]
    return [f".. autodata:: {module.__name__}.{name}", "   :no-value:", ""]
