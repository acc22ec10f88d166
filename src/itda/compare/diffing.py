"""Two models of one tokenizer, such as one before and after fine-tuning: which atoms does the second use otherwise?"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.building import build_from_activations
from itda.capturing import capture_at_most
from itda.compare.changes import Changes, Half, changes
from itda.compare.diff_report import LISTED, AtomChanges, ChangedAtom, Diff, Side
from itda.compare.outputs import AFTER, BEFORE, Place, compare_outputs, farthest
from itda.compare.scaling import latent_scaling
from itda.compare.unexplained import fvu
from itda.data.activations import Activations
from itda.data.corpus import Corpus, checked_corpus
from itda.data.dictionary import Dictionary
from itda.errors import CorpusError, MismatchError, ShapeError
from itda.models.loading import Model, checked_model
from itda.options import above_zero, share, whole
from itda.pursuit import Codes

_ATOMS_A_DIMENSION, _ROWS_AN_ATOM = 32, 8
_CONTEXTS = 3
_SHOWN_PLACES = 20
_OUTPUT_TOKENS = 10_000  # at most: two forward passes with all logits


_Origins = list[Side] | None


class _Half(NamedTuple):
    """Activations of both models at the same tokens."""

    first: Activations
    second: Activations


def diff(
    base: Model,
    tuned: Model,
    corpus: Corpus,
    *,
    site: str | None = None,
    atoms: int | None = None,
    steps: int | None = None,
    tokens: int = 60_000,
    margin: float = 0.5,
    apart: float = 2.5,
    rate: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> Diff:
    """Find the atoms that two models use otherwise, on a dictionary of both and on each one's own.

    Dictionaries are built and atoms are chosen on one half of the documents; what was chosen is tested on the other
    half, by exchanging the models document by document, and the share of false ones among those of each table is
    controlled. Text on which the models behave differently must be in the corpus, or nothing can be found; where it is
    more than a third of it, a large distance is the usual one, and `apart` asks too much.

    Args:
        base, tuned: models of one tokenizer, whose activations at the site have one width.
        corpus: what both read; neither needs to have been trained on it.
        site: the middle layer by default.
        atoms: of each dictionary; 32 times the width by default, if there are eight rows for each: what few texts
            share needs an atom of its own.
        steps: of a code.
        tokens: rows of each model, half of them to choose on and half to test on; all there are if they are fewer.
        margin: use must differ by more than this share of it: two models are never quite the same.
        apart: and activations that use the atom must be more than so many times as far apart as usual.
        rate: of false discoveries, at most, among the atoms called changed.
        seed: of every choice.
        progress: draw bars on stderr.
    Returns: a Diff: tables of atoms, the plain differences of activations and of logits, and the texts where the two
        differ most.
    Raises: MismatchError for other tokenizers; ShapeError for other widths; CorpusError for so few
        documents that nothing could be found.
    """
    for model in (base, tuned):
        checked_model(model)
    checked_corpus(corpus)
    tokens = whole("tokens", tokens, least=2)
    if atoms is not None:
        atoms = whole("atoms", atoms)
    rate = share("rate", rate)
    margin, apart = above_zero("margin", margin), above_zero("apart", apart)
    if base.record.tokenizer != tuned.record.tokenizer:
        raise MismatchError(
            f"{base.id!r} and {tuned.id!r} have two tokenizers, so their tokens are not the same. To compare such "
            "models, use compare.layer_matrix or compare.transplant."
        )
    where = base.site(site or base.middle_site).name
    widths = [model.site(where).width for model in (base, tuned)]
    if widths[0] != widths[1]:
        raise ShapeError(
            f"A dictionary of both models needs one width at {where!r}. Got {widths[0]} and {widths[1]}; to compare "
            "models of two sizes, use compare.layer_matrix or compare.transplant."
        )
    # Of n documents, signs come out all alike once in 2^n draws
    needed = 2 * math.ceil(math.log2(1 / rate) + 1)
    if len(corpus) < needed:
        raise CorpusError(
            f"A diff chooses on half the documents and tests on the rest. {corpus.name} has {len(corpus)}; give at "
            f"least {needed} for a rate of {rate}, better hundreds."
        )
    chosen_on, tested_on = corpus.split(held_out=0.5, seed=seed)
    choose, test = (_half(base, tuned, part, where, -(-tokens // 2), seed, progress) for part in (chosen_on, tested_on))
    size = atoms or max(1, min(_ATOMS_A_DIMENSION * choose.first.width, len(choose.first) // _ROWS_AN_ATOM))
    options = {"atoms": size, "steps": steps, "seed": seed, "progress": False}
    tables: dict[str, AtomChanges] = {}
    with progress_bars.bar("diff", 4, show=progress) as advance:
        for name, (dictionary, origins) in _dictionaries(choose, options):
            tables[name] = _table(dictionary, origins, choose, test, margin=margin, apart=apart, rate=rate, seed=seed)
            advance(1)
        joint = tables.pop("joint")
        outputs = None
        if base.predicts and tuned.predicts:
            outputs = compare_outputs(
                base, tuned, tested_on, joint.dictionary, where, tokens=min(_OUTPUT_TOKENS, len(test.first)),
                shown=_SHOWN_PLACES, seed=seed,
            )  # fmt: skip
        advance(1)
    step = torch.cat([half.second.rows - half.first.rows for half in (choose, test)]).mean(0)
    usual = torch.linalg.vector_norm(test.first.rows - test.first.rows.mean(0), dim=1).median()
    return Diff(
        models=(base.id, tuned.id),
        site=where,
        corpus=corpus.name,
        documents=(len(chosen_on), len(tested_on)),
        tokens=(len(choose.first), len(test.first)),
        margin=margin,
        apart=apart,
        rate=rate,
        joint=joint,
        own=tables,
        mean_difference=step,
        mean_shift=float(torch.linalg.vector_norm(step) / usual),
        outputs=outputs,
        places=outputs.places if outputs else _places(test, float(usual)),
    )


def _half(first: Model, second: Model, corpus: Corpus, site: str, tokens: int, seed: int, progress: bool) -> _Half:
    """The rows of both models at the tokens that neither leaves out."""
    found = [
        capture_at_most(tokens, model, corpus, site, seed=seed, progress=progress) for model in (first, second)
    ]  # fmt: skip
    where = [
        {place: row for row, place in enumerate(zip(*_columns(one), strict=True))} for one in found
    ]  # fmt: skip
    common = [place for place in where[0] if place in where[1]]
    if not common:
        raise CorpusError(f"{corpus.name} has no token at which both models have an activation that is kept.")
    rows = [torch.tensor([one[place] for place in common]) for one in where]
    return _Half(found[0].select(rows[0]), found[1].select(rows[1]))


def _columns(activations: Activations) -> tuple[list[str], list[int], list[int]]:
    sources = activations.sources
    windows = [sources.windows[index] for index in sources.window.tolist()]
    return [one.document for one in windows], [one.start for one in windows], sources.token_index.tolist()


def _dictionaries(half: _Half, options: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Dictionary, _Origins]]]:
    """One of both models, with where each atom is from, and one of each."""
    # One after the other, so that no model comes first
    rows = torch.stack([half.first.rows, half.second.rows], 1).flatten(0, 1)
    joint = build_from_activations(rows, **options)
    row = joint.sources.row
    yield (
        "joint",
        (
            replace(
                joint,
                sources=half.first.sources.select(row // 2),
                provenance=half.first.provenance,
                documents=half.first.documents,
                build=replace(
                    joint.build,
                    notes=(*joint.build.notes, f"Built from {half.second.provenance.model.id!r} too, row by row."),
                ),
            ),
            ["tuned" if odd else "base" for odd in (row % 2).tolist()],
        ),
    )
    yield "base", (build_from_activations(half.first, **options), None)
    yield "tuned", (build_from_activations(half.second, **options), None)


def _table(
    dictionary: Dictionary,
    origins: _Origins,
    choose: _Half,
    test: _Half,
    *,
    margin: float,
    apart: float,
    rate: float,
    seed: int,
) -> AtomChanges:
    codes = [(dictionary.encode(half.first.rows), dictionary.encode(half.second.rows)) for half in (choose, test)]
    middle = (choose.first.rows.mean(0) + choose.second.rows.mean(0)) / 2
    halves = [
        Half(*own, half.first.sources.document_numbers, _distance(half, middle))
        for own, half in zip(codes, (choose, test), strict=True)
    ]
    first, second = test.first.rows, test.second.rows
    found = changes(halves[0], halves[1], len(dictionary), margin=margin, apart=apart, rate=rate, seed=seed)
    # Of an atom that one model uses more: how much of it has the other?
    documents = halves[1].documents
    of_second = latent_scaling(dictionary, second, codes[1][1], first, documents, seed=seed)
    of_first = latent_scaling(dictionary, first, codes[1][0], second, documents, seed=seed)
    scaling = of_second.where(found.more, of_first)
    order = found.order(rate)
    significant = found.significant(rate)
    listed = [atom for place, atom in enumerate(order.tolist()) if place < LISTED or bool(found.chosen[atom])]
    contexts = _contexts(listed, found, test, codes[1])
    return AtomChanges(
        dictionary=dictionary,
        fvu=tuple(fvu(one.rows, dictionary.decode(own)) for one, own in zip(test, codes[1], strict=True)),
        order=order,
        tested=int(found.chosen.sum()),
        atoms=tuple(
            ChangedAtom(
                atom=atom,
                source=dictionary.sources[atom],
                taken_from=origins[atom] if origins else None,
                more_in="tuned" if bool(found.more[atom]) else "base",
                frequency=(float(found.frequency.first[atom]), float(found.frequency.second[atom])),
                size=(float(found.size.first[atom]), float(found.size.second[atom])),
                distance=float(found.distance[atom]),
                p=float(found.p[atom]),
                q=float(found.q[atom]),
                changed=bool(significant[atom]),
                shared=float(scaling.shared[atom]),
                shared_interval=(float(scaling.low[atom]), float(scaling.high[atom])),
                contexts=contexts[atom],
            )
            for atom in listed
        ),
    )


def _distance(half: _Half, middle: Tensor) -> Tensor:
    """Squared, over the mean squared length of the two activations about the mean of all, float64 (n,)."""
    lengths = sum((one.rows - middle).double().square().sum(1) for one in half) / 2
    return (half.second.rows - half.first.rows).double().square().sum(1) / lengths


def _contexts(
    atoms: list[int], found: Changes, half: _Half, codes: tuple[Codes, ...]
) -> Mapping[int, tuple[tuple[str, str, str], ...]]:
    """Of each atom, the tokens where the model that uses it more does so the most: before, token, after."""
    answer: dict[int, tuple[tuple[str, str, str], ...]] = {}
    for atom in atoms:
        side = int(found.more[atom])
        amount = torch.where(codes[side].atoms == atom, codes[side].coefficients.abs(), 0).sum(1)
        best = torch.topk(amount, min(4 * _CONTEXTS, len(amount)))
        texts: dict[tuple[str, str, str], None] = {}
        for value, row in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            if value > 0:
                texts.setdefault(half[side].sources[row].quoted(60, 20))
        answer[atom] = tuple(texts)[:_CONTEXTS]
    return answer


def _places(half: _Half, usual: float) -> tuple[Place, ...]:
    """Where activations are farthest apart, for models that predict nothing."""
    far = torch.linalg.vector_norm(half.second.rows - half.first.rows, dim=1) / usual
    best: dict[str, Place] = {}
    for row in torch.argsort(far, descending=True)[: 20 * _SHOWN_PLACES].tolist():
        source = half.first.sources[row]
        assert source.document is not None
        if source.document not in best:
            best[source.document] = Place(*source.quoted(BEFORE, AFTER), source.document, float(far[row]), "")
    return farthest(best.values(), _SHOWN_PLACES)
