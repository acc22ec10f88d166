"""One atom pushed to extreme values, and what the model then does: a probe of what the atom is for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from itda import progress as progress_bars
from itda.data.dictionary import Dictionary
from itda.errors import OptionError
from itda.explaining import place_of
from itda.models.loading import Model
from itda.models.losses import likelier_words
from itda.options import finite_number, whole
from itda.shown import Quote, Shown
from itda.steer.atoms import AtomEdit, coefficients
from itda.steer.effects import NeutralText
from itda.steer.generating import generate
from itda.steer.positions import Tokens
from itda.steer.reading import median_norm

MULTIPLES = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Push:
    """What happens with the atom's coefficient at one value, at every token that is meant."""

    multiple: float
    """Of the usual largest coefficient."""
    value: float
    """The coefficient, in the units of the activations."""
    kl: float
    entropy: float
    perplexity: float
    """On the texts, as of `NeutralText`."""
    likelier: tuple[tuple[str, float], ...]
    """Tokens whose log-probability rises the most, the mean over the texts' tokens, nats."""
    unlikelier: tuple[tuple[str, float], ...]
    """Those that fall the most, by how much."""
    continuation: str
    """What the model goes on with after the prompt; empty without one."""


@dataclass(frozen=True, repr=False)
class Extremes(Shown):
    """The answer of `push`; str() of it is a table."""

    WIDTH = 160

    atom: int
    text: str
    site: str
    largest: float
    """The largest coefficient that codes of these texts have of it; the median norm of activations if none has any."""
    used: bool
    """Whether the texts use the atom at all."""
    pushes: tuple[Push, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"atom {self.atom} at {self.site}", style="bold")
        yield Quote.of(self.text)
        unit = "the largest coefficient in these texts" if self.used else "the median norm: these texts do not use it"
        yield Text(f"1 is {self.largest:.4g}, {unit}")
        table = Table(show_edge=False, pad_edge=False)
        for name in ("times", "KL nats", "entropy", "perplexity"):
            table.add_column(name, justify="right")
        for name in ("likelier", "unlikelier", "goes on with"):
            table.add_column(name, overflow="fold")
        for push_ in self.pushes:
            table.add_row(
                f"{push_.multiple:g}", f"{push_.kl:.4f}", f"{push_.entropy:.3f}", f"{push_.perplexity:.4g}",
                Text(", ".join(repr(word) for word, _ in push_.likelier)),
                Text(", ".join(repr(word) for word, _ in push_.unlikelier)), Text(push_.continuation),
            )  # fmt: skip
        yield table


def push(
    model: Model,
    dictionary: Dictionary,
    atom: int,
    texts: Sequence[str],
    *,
    multiples: Sequence[float] = MULTIPLES,
    tokens: Tokens = "all",
    words: int = 5,
    prompt: str | None = None,
    max_new_tokens: int = 20,
    progress: bool = True,
) -> Extremes:
    """Set an atom's coefficient to values far beyond what it has by itself, and record what changes.

    Args:
        model: the one the dictionary was built on.
        dictionary, atom: what is pushed.
        texts: where predictions are looked at.
        multiples: of the largest coefficient that codes of these texts have of the atom.
        tokens: where it is pushed, as of `SteeringVector.apply`.
        words: at most so many tokens that become likelier, and unlikelier.
        prompt: text to go on with at each value.
        max_new_tokens: at most so many.
        progress: draw a bar on stderr.
    Raises: OptionError; CorpusError; ModelError; MismatchError.
    Source: the extreme values of CDEV, there of single concept directions.
    """
    site = place_of(dictionary, model, None, True)
    words = whole("words", words)
    if not isinstance(multiples, Sequence) or not multiples:
        raise OptionError("Give at least one multiple to push to, in a list.")
    multiples = [finite_number("multiples", multiple) for multiple in multiples]
    text = NeutralText(model, texts, tokens)
    AtomEdit(dictionary, atom, "set", 0.0)  # refuses an atom that is not there
    rows = text.rows(site)
    found = float(coefficients(dictionary, rows, atom).abs().max())
    largest = found or median_norm(torch.linalg.vector_norm(rows, dim=1))
    pushes = []
    with progress_bars.bar("push", len(multiples), show=progress) as advance:
        for multiple in multiples:
            edit = AtomEdit(dictionary, atom, "set", multiple * largest)
            with edit.apply(model, tokens=tokens):
                now, change = text.measure(), text.change()
                if not isfinite(now.kl):
                    raise OptionError(f"At {multiple:g} times its largest coefficient the predictions are no numbers.")
                gone = generate(model, prompt, max_new_tokens=max_new_tokens)[0].text if prompt else ""
            rising, falling = (likelier_words(model, sign * change, words) for sign in (1, -1))
            pushes.append(
                Push(float(multiple), multiple * largest, now.kl, now.entropy, now.perplexity, rising, falling, gone)
            )
            advance(1)
    return Extremes(int(atom), dictionary.describe(atom), site, largest, found > 0, tuple(pushes))
