"""A training run through its checkpoints: when do layers settle, and when is each atom of the last one born?"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from itda import progress as progress_bars
from itda.building import build_from_activations
from itda.capturing import capture_at_most, capture_like
from itda.compare.ablations import ablation_losses
from itda.compare.births import LEAST_DOCUMENTS, LEAST_TOKENS, Watched, births_of, scores_of, watched
from itda.compare.layers import between_layers, layers_at_common_places
from itda.compare.overlaps import overlap
from itda.compare.places import read_at
from itda.compare.run_report import Checkpoint, FollowedAtom, TrainingRun
from itda.compare.similarities import named
from itda.compare.transplants import Transplant, transplant
from itda.compare.unexplained import fvu
from itda.data.corpus import Corpus, checked_corpus
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import CorpusError, MismatchError, OptionError
from itda.models.loading import Model, checked_model, load_model
from itda.options import seed_number, whole
from itda.randomness import seeded

_PLACES_AN_ATOM = 12  # at which it is left out
_SURE = 1.65  # standard errors above 0, at which an atom is said to cost something
_LAYER_TOKENS = 5_000
_LAYER_MEASURES = ("overlap", "cka")


def follow(
    checkpoints: Mapping[str, Model | str | Path],
    corpus: Corpus,
    *,
    site: str | None = None,
    dictionary: Dictionary | None = None,
    atoms: int | None = None,
    steps: int | None = None,
    tokens: int = 60_000,
    held_out_tokens: int = 20_000,
    ablated: int = 64,
    load: Callable[[str | Path], Model] = load_model,
    seed: int = 0,
    progress: bool = True,
) -> TrainingRun:
    """Carry one named dictionary through the checkpoints of a training run, and build one at each.

    The dictionary is the last checkpoint's. At every other one its atoms are the activations of the same tokens of the
    same texts. An atom is born at the first checkpoint from which on the cosine with it tells the held-out tokens whose
    code has it at last from those of its nearest atoms, at least half as well, beyond chance, as at last (area under
    the curve). Its interval comes from drawing documents anew.

    Args:
        checkpoints: name -> model, its folder or its name on the hub, from the first to the last; those that are not
            loaded yet are loaded one at a time.
        corpus: what they read; a tenth of the documents is held out.
        site: the middle layer by default.
        dictionary: of the last checkpoint, built from some documents of the corpus, each atom one activation; built
            here by default.
        atoms, steps: of the dictionaries that are built.
        tokens: rows that each is built from; all there are if they are fewer.
        held_out_tokens: rows on which use is looked at, at most.
        ablated: atoms that are left out at some held-out tokens at every checkpoint, to see what that costs.
        load: what opens those that are not loaded yet.
        seed: of every choice.
        progress: draw bars on stderr.
    Returns: curves of layers and atoms, and a table of births.
    Raises: OptionError for fewer than two checkpoints; MismatchError for models of several tokenizers, or a dictionary
        of another model; SiteError; CorpusError for too little text.
    """
    if not isinstance(checkpoints, Mapping) or len(checkpoints) < 2:
        raise OptionError("follow needs at least two checkpoints, as {name: model}, from the first to the last.")
    tokens = whole("tokens", tokens)
    held_out_tokens = whole("held_out_tokens", held_out_tokens)
    ablated = whole("ablated", ablated, least=0)
    seed = seed_number(seed)
    checked_corpus(corpus)
    for given in checkpoints.values():
        if not isinstance(given, str | Path):
            checked_model(given)
    if dictionary is not None and (checked_dictionary(dictionary).kind != "activations" or not dictionary.provenance):
        raise OptionError("follow carries atoms that are one named activation each. Build from text, by 'budget', say.")
    if dictionary is not None and (atoms is not None or steps is not None):
        raise OptionError("atoms= and steps= are of a dictionary that is built. With dictionary=, leave them out.")
    last = _opened(list(checkpoints.values())[-1], load)
    where = last.site(site or (dictionary.site if dictionary else last.middle_site)).name
    if dictionary is None:
        train, _ = corpus.split(held_out=0.1, seed=seed)
        read = capture_at_most(tokens, last, train, where, seed=seed, progress=progress)
        dictionary = build_from_activations(read, atoms=atoms, steps=steps, seed=seed, progress=False)
    if dictionary.site != where:
        raise OptionError(f"This dictionary was built at {dictionary.site!r}. Got site={site!r}; leave site out.")
    text = corpus.without(dictionary.documents)
    if not text.ids:
        raise CorpusError(f"The dictionary was built from all documents of {corpus.name}. Give other text too.")
    held_out = capture_like(dictionary, last, text, tokens=held_out_tokens, seed=seed, progress=progress)
    final, documents = dictionary.encode(held_out), held_out.sources.document_numbers
    watch = watched(final, dictionary, held_out.rows, documents, seed=seed)
    if not len(watch.atoms):
        raise CorpusError(
            f"No atom is told from its nearest ones at {LEAST_TOKENS} held-out tokens of {LEAST_DOCUMENTS} documents. "
            "Give more text, or more held_out_tokens."
        )
    # A tenth less: other layers may have sinks where this one has none
    layer_tokens = min(_LAYER_TOKENS, 9 * len(held_out) // 10)
    left_out, places = _left_out(watch, ablated, seed)
    found: list[Checkpoint] = []
    scores: list[tuple[Tensor, Tensor, Tensor]] = []
    losses: list[Tensor] = []
    with progress_bars.bar("checkpoints", len(checkpoints), show=progress) as advance:
        for name, model in _models(checkpoints, last, load):
            there = transplant(dictionary, model, corpus, where, tokens=tokens, progress=False)
            rows = read_at(model, [where], held_out.sources, text, held_out.provenance)[1][where]
            found.append(
                Checkpoint(
                    name=name,
                    overlap=1.0 if model is last else _shared(dictionary, model, corpus),
                    fvu=fvu(rows, there.decode(there.encode(rows))),
                    layers=_layers(model, last, text, layer_tokens, seed),
                )
            )
            scores.append(scores_of(watch, _carried(there)[watch.atoms], rows - there.mean))
            if model.predicts and len(places):
                losses.append(ablation_losses(there, model, left_out, places, held_out, text, seed=seed))
            advance(1)
    births = births_of(watch, scores, documents, seed=seed)
    costs, needed = _mean_costs(losses, left_out), _needed(losses, left_out)
    return TrainingRun(
        model=last.id,
        site=where,
        dictionary=dictionary,
        tokens=len(held_out),
        documents=int(documents.max()) + 1,
        checkpoints=tuple(found),
        unwatched=len(dictionary) - len(watch.atoms),
        atoms=tuple(
            FollowedAtom(
                atom=atom,
                source=dictionary.sources[atom],
                tokens=int(watch.tokens[index]),
                found=tuple(births.found[index].tolist()),
                told=tuple(births.told[index].tolist()),
                born=int(births.born[index]),
                interval=(int(births.interval[index, 0]), int(births.interval[index, 1])),
                costs=costs.get(atom),
                needed=needed.get(atom),
            )
            for index, atom in enumerate(watch.atoms.tolist())
        ),
    )


def _opened(model: Model | str | Path, load: Callable[[str | Path], Model]) -> Model:
    return load(model) if isinstance(model, str | Path) else checked_model(model)


def _models(
    checkpoints: Mapping[str, Model | str | Path], last: Model, load: Callable[[str | Path], Model]
) -> Iterator[tuple[str, Model]]:
    """Each with its name; the last one is open already."""
    *earlier, (final, _) = checkpoints.items()
    for name, given in earlier:
        model = _opened(given, load)
        if model.record.tokenizer != last.record.tokenizer:
            raise MismatchError(f"Checkpoint {name!r} has another tokenizer than {final!r}: they are not of one run.")
        yield str(name), model
    yield str(final), last


def _shared(dictionary: Dictionary, model: Model, corpus: Corpus) -> float:
    """Overlap of a dictionary with one that is built in the same way from the same text in another checkpoint."""
    assert dictionary.provenance is not None
    asked = dictionary.provenance.capture
    alike = ("window", "bos", "roles", "special_tokens", "sinks", "seed")
    options = {name: asked[name] for name in alike if name in asked}
    text = corpus.without(set(corpus.ids).difference(dictionary.documents))
    rows = capture_at_most(asked["tokens"], model, text, dictionary.site, progress=False, **options)
    as_built = {"method": dictionary.build.method, "coding": dictionary.coding.asked, **dictionary.build.options}
    own = build_from_activations(rows, progress=False, **{**as_built, "atoms": len(dictionary)})
    # A sink more or less is another number of rows; nothing else differs
    return overlap(own, dictionary, anyway=True).adjusted


def _left_out(watch: Watched, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Of some atoms, some tokens that use them: atom and row, int64 (n,) each."""
    some = torch.randperm(len(watch.atoms), generator=seeded(seed))[:count]
    places = watch.own[some, :_PLACES_AN_ATOM]
    atoms = watch.atoms[some, None].expand_as(places)
    return atoms[places >= 0], places[places >= 0]


def _layers(model: Model, last: Model, corpus: Corpus, tokens: int, seed: int) -> dict[str, dict[str, float]]:
    """Measure -> place -> how alike the checkpoint's layer and that of the last one are."""
    sites = [site.name for site in last.sites() if site.name.startswith("resid_post.")]
    if model is last:
        return {measure: dict.fromkeys(sites, 1.0) for measure in _LAYER_MEASURES}
    layers = layers_at_common_places(
        {"checkpoint": model, "last": last}, corpus, sites=sites, tokens=tokens, seed=seed, progress=False
    )
    wanted = [named(measure) for measure in _LAYER_MEASURES]
    answer: dict[str, dict[str, float]] = {measure: {} for measure in _LAYER_MEASURES}
    for index, site in enumerate(sites):
        pair = [layers[index], layers[index + len(sites)]]
        found = between_layers(pair, wanted, atoms=None, whiten=False, progress=False)
        for measure, matrix in found.items():
            answer[measure][site] = float(matrix.values[0, 1])
    return answer


def _carried(there: Transplant) -> Tensor:
    """The atoms of the original as a checkpoint has them, float32 (A, D); zero for one that it lost."""
    atoms = torch.zeros(len(there.original), there.width)
    atoms[there.kept] = there.atoms
    return atoms


def _mean_costs(losses: list[Tensor], atoms: Tensor) -> dict[int, tuple[tuple[float, float], ...]]:
    """Of each atom that was left out, at each checkpoint: the mean cost, and that of another one."""
    answer: dict[int, tuple[tuple[float, float], ...]] = {}
    for atom in torch.unique(atoms).tolist() if losses else []:
        means = [one[:, atoms == atom].nanmean(1).tolist() for one in losses]
        answer[atom] = tuple((own, other) for own, other in means)
    return answer


def _needed(losses: list[Tensor], atoms: Tensor) -> dict[int, int]:
    """Of atoms that cost something at the last checkpoint, the first one from which on they cost half as much."""
    answer: dict[int, int] = {}
    for atom in torch.unique(atoms).tolist() if losses else []:
        beyond = torch.stack([one[0, atoms == atom] - one[1, atoms == atom] for one in losses])
        means = beyond.nanmean(1)
        last = beyond[-1][~beyond[-1].isnan()]
        if len(last) > 2 and float(last.mean()) > _SURE * float(last.std()) / len(last) ** 0.5:
            stays = (means >= means[-1] / 2).flip(0).long().cumprod(0).sum()
            answer[atom] = len(losses) - int(stays)
    return answer
