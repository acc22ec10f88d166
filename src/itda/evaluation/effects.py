"""What an atom does: the predictions of the model without it, everything else left as it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text
from torch import Tensor

from itda import progress as progress_bars
from itda.capturing import decomposed, in_groups, whole_windows, window_length
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary
from itda.errors import CorpusError, ModelError, OptionError
from itda.evaluation.held_out import held_out_of
from itda.explaining import place_of
from itda.models import tokenizing
from itda.models.loading import Model
from itda.models.losses import divergence, likelier_words, next_token_loss, predict
from itda.models.sites import Site
from itda.options import is_whole, seed_number, whole
from itda.pursuit import Coding
from itda.randomness import seeded
from itda.shown import Quote, Shown, printable

_WORDS = 5  # tokens that are shown of those it makes likelier


@dataclass(frozen=True)
class Effect:
    """What leaving out one atom changes, as means over the tokens whose code has it."""

    atom: int
    text: str
    """What the atom is."""
    tokens: int
    """How many held-out tokens were changed."""
    kl: float
    """Divergence of the prediction at such a token from the model's own, nats."""
    kl_random: float
    """The same where a random direction is taken off instead, as far: what any change of that size does."""
    kl_later: float
    """At the tokens after the first changed one of a window, these included, nats."""
    delta_ce: float
    """Rise of the next-token loss at such a token, nats."""
    promotes: tuple[tuple[str, float], ...]
    """Tokens that the atom makes likelier: the fall of their mean log-probability without it, the largest first."""
    suppresses: tuple[tuple[str, float], ...]
    """Tokens that it makes less likely."""

    @property
    def lift(self) -> float:
        """How many times as much it changes as a random direction does."""
        return self.kl / self.kl_random if self.kl_random else (float("inf") if self.kl else 1.0)


@dataclass(frozen=True, repr=False)
class Effects(Shown):
    """The answer of `ablate`, the strongest first."""

    WIDTH = 140

    model: str
    site: str
    atoms: tuple[Effect, ...]
    unused: tuple[int, ...] = ()
    """Atoms that were asked for and that no code of the tokens looked at has."""

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"Predictions without one atom, at {self.site} of {self.model}", style="bold")
        table = Table(show_edge=False, pad_edge=False, expand=True)
        for name in ("atom", "tokens", "KL nats", "random", "KL later", "ΔCE"):
            table.add_column(name, justify="right", no_wrap=True, min_width=max(len(name), 6))
        table.add_column("makes likelier | less likely", no_wrap=True, overflow="ellipsis", ratio=1)
        table.add_column("what it is", no_wrap=True, overflow="ellipsis", ratio=1)
        for effect in self.atoms:
            words = " | ".join(
                " ".join(repr(printable(word)) for word, _ in side[:3]) for side in (effect.promotes, effect.suppresses)
            )
            numbers = (effect.kl, effect.kl_random, effect.kl_later, effect.delta_ce)
            table.add_row(
                str(effect.atom), str(effect.tokens), *(f"{value:.4f}" for value in numbers), Text(words),
                Quote.of(effect.text),
            )  # fmt: skip
        yield table
        yield Text("KL at tokens that use the atom, later at those after; random: another direction taken off as far.")
        if self.unused:
            yield Text(f"In no code of these tokens: {', '.join(map(str, self.unused))}. More tokens may have them.")


class _Window(NamedTuple):
    """A held-out window with the codes of its tokens."""

    inputs: dict[str, Tensor]
    """Of one sequence."""
    atoms: Tensor
    """int32 (T, K); -1 for tokens that are not decomposed."""
    coefficients: Tensor


def ablate(
    dictionary: Dictionary,
    model: Model,
    corpus: Corpus,
    *,
    atoms: Sequence[int] | None = None,
    count: int = 20,
    tokens: int | None = 10_000,
    windows: int = 16,
    steps: int | None = None,
    coding: Coding | None = None,
    site: str | None = None,
    seed: int = 0,
    check_model: bool = True,
    progress: bool = True,
) -> Effects:
    """Leave out one atom at a time, wherever a code has it, and see what changes at the output.

    The activation keeps all else: also what the code does not explain.

    Args:
        dictionary: whose atoms are left out.
        model: the model it was built on; one that predicts a next token.
        corpus: held-out text; documents that the dictionary was built from are left out.
        atoms: which; by default `count` of them, drawn as often as codes use them.
        count: how many atoms where none are named.
        tokens: look for them in about so many tokens; None for all.
        windows: the most windows that are run for one atom.
        steps, coding: instead of the dictionary's own coding.
        site: where, for a dictionary that was built from a bare array.
        seed: which windows, which atoms, and which random directions.
        check_model: refuse a model with other weights than the dictionary's.
        progress: draw a bar on stderr.
    Returns: the effects; str() of it is a table. Atoms that no code uses are left out.
    Raises: ModelError for a model that predicts no token; OptionError for an atom that is not there; CorpusError.
    """
    where = place_of(dictionary, model, site, check_model)
    if not model.predicts:
        raise ModelError(f"{model.id} predicts no next token, so nothing shows what an atom does to that.")
    count, windows = whole("count", count), whole("windows", windows)
    tokens = None if tokens is None else whole("tokens", tokens)
    seed = seed_number(seed)
    if atoms is not None and not isinstance(atoms, Sequence):
        raise OptionError(f"atoms must be a list of numbers. Got {atoms!r} instead.")
    wrong = [
        atom for atom in atoms or ()
        if not is_whole(atom) or not 0 <= atom < len(dictionary)
    ]  # fmt: skip
    if wrong:
        raise OptionError(f"Atoms are numbers from 0 to {len(dictionary) - 1}. Got {wrong[0]!r} instead.")
    held_out, _ = held_out_of(dictionary, corpus)
    read = _read(dictionary, model, where, held_out, tokens, coding, steps, seed)
    usage = torch.zeros(len(dictionary))
    for window in read:
        usage += torch.bincount(window.atoms[window.atoms >= 0].long(), minlength=len(dictionary))
    generator = seeded(seed)
    if atoms is None:
        used = int((usage > 0).sum())
        if not used:
            raise CorpusError("No held-out code has any atom. Give more text.")
        atoms = torch.multinomial(usage, min(count, used), generator=generator).tolist()
    atoms = [int(atom) for atom in atoms]
    found = []
    with progress_bars.bar("leave out atoms", len(atoms), show=progress) as advance:
        for atom in atoms:
            # The last token predicts nothing that is known
            having = [window for window in read if bool((window.atoms[:-1] == atom).any())]
            if having:
                found.append(_effect(dictionary, model, model.site(where), atom, having[:windows], generator))
            advance(1)
    unused = sorted(set(atoms) - {effect.atom for effect in found})
    return Effects(model.id, where, tuple(sorted(found, key=lambda effect: -effect.kl)), tuple(unused))


def _read(
    dictionary: Dictionary, model: Model, site: str, corpus: Corpus, tokens: int | None, coding: Coding | None,
    steps: int | None, seed: int,
) -> list[_Window]:  # fmt: skip
    captured: Mapping[str, Any] = dictionary.provenance.capture if dictionary.provenance else {}
    length = window_length(model, captured)
    place = model.site(site)
    found = []
    chosen = whole_windows(
        model, corpus, tokens=tokens, length=length, bos=captured.get("bos"), seed=seed,
        roles=captured.get("roles"),
    )  # fmt: skip
    for group in in_groups(chosen, tokenizing.CANONICAL_BATCH):
        values = model.read(tokenizing.batch(model, [window for _, window in group], length=None), [place])[site]
        for (_, window), row in zip(group, values, strict=True):
            rows = row[: len(window)].float().cpu()
            codes = dictionary.encode(rows, coding=coding, steps=steps)
            keep = decomposed(window, rows, captured)
            used = torch.where(keep[:, None], codes.atoms, -1)
            found.append(_Window(tokenizing.batch(model, [window], length=None), used, codes.coefficients))
    return found


def _effect(
    dictionary: Dictionary, model: Model, site: Site, atom: int, windows: Sequence[_Window], generator: torch.Generator
) -> Effect:
    direction = dictionary.atoms[atom]
    other = torch.nn.functional.normalize(torch.randn(dictionary.width, generator=generator), dim=0)
    sums = dict.fromkeys(("tokens", "kl", "kl_random", "later", "kl_later", "delta_ce"), 0.0)
    change_of_words: Tensor | float = 0.0
    for window in windows:
        # How much of the atom each token has
        amount = torch.where(window.atoms == atom, window.coefficients, 0).sum(1)
        clean = predict(model, window.inputs)
        without = _predict_less(model, window.inputs, site, amount, direction)
        randomly = _predict_less(model, window.inputs, site, amount, other)
        changed = (amount != 0)[:-1].to(clean.device)
        after = changed.cumsum(0) > 0
        kl = divergence(clean, without)[0]
        loss = next_token_loss(without, window.inputs["input_ids"]) - next_token_loss(clean, window.inputs["input_ids"])
        sums["tokens"] += int(changed.sum())
        sums["kl"] += float(kl[changed].sum())
        sums["kl_random"] += float(divergence(clean, randomly)[0][changed].sum())
        sums["later"] += int(after.sum())
        sums["kl_later"] += float(kl[after].sum())
        sums["delta_ce"] += float(loss[0][changed].sum())
        change_of_words = change_of_words + (clean - without)[0, :-1][changed].sum(0).cpu()
    count = max(sums["tokens"], 1)
    assert isinstance(change_of_words, Tensor)
    change = change_of_words / count
    return Effect(
        atom=atom,
        text=dictionary.describe(atom),
        tokens=int(sums["tokens"]),
        kl=sums["kl"] / count,
        kl_random=sums["kl_random"] / count,
        kl_later=sums["kl_later"] / max(sums["later"], 1),
        delta_ce=sums["delta_ce"] / count,
        promotes=likelier_words(model, change, _WORDS),
        suppresses=likelier_words(model, -change, _WORDS),
    )


def _predict_less(model: Model, inputs: dict[str, Tensor], site: Site, amount: Tensor, direction: Tensor) -> Tensor:
    def change(values: Tensor) -> Tensor:
        return values - (amount[:, None] * direction).to(values)

    return predict(model, inputs, site, change)
