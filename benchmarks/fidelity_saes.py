"""Autoencoders trained to convergence, and dictionaries with as many atoms on the held-out text beside them."""

from dataclasses import replace
from pathlib import Path

import saes
import torch
from cases import SHARES, Case
from cells import Cells
from scoring import Way, of_dictionary

import itda
from itda.building.calibrating import calibrated
from itda.pursuit import Prepared, default_coding, prepare, pursue, rebuild

SWEPT_AT = 0.06
BY_WORTH = (SWEPT_AT, 0.03, 0.12, 0.015)
"""In which order autoencoders are trained: where most is known first, that which no bar is for last."""
LARGE = ("gpt2-wide", "minilm")
"""Here autoencoders take hours: one seed, the rate swept for one number of steps, and what is not plain TopK at that
only."""
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
GAIN = 0.02
"""In FVU, by twice the passes: less, and an autoencoder counts as converged."""
PASSES = {64: (20, 320), 128: (10, 320)}
PASSES_OF_WIDER = (10, 160)
"""At first, and at most, whatever more would gain: a training then takes a quarter of an hour; by width."""
AUTOENCODERS = ("topk", "batchtopk", "topk from data")
TRAINED = Path(__file__).parent / "trained"


def at_equal_l0(case: Case, share: float, cells: Cells) -> None:
    """Measure what is missing of the dictionaries with K atoms in the mean on the held-out text."""
    facts = case.facts(case.steps(share))
    for method in ("budget", "mixture", "learned"):
        if cells.where(**facts, method=method, coding="equal"):
            continue
        dictionary, made = case.build(facts["steps"], method=method)
        coding = equal_coding(case, facts["steps"], dictionary.mean, prepare(dictionary.atoms))
        scores = case.place.scores(of_dictionary(dictionary, coding))
        cells.add(**facts, method=method, coding="equal", **made, **scores)


def equal_coding(case: Case, steps: int, mean: torch.Tensor, prepared: Prepared) -> itda.Coding:
    """The default coding with the threshold at which the held-out rows have so many atoms in the mean."""
    rows = case.place.compared - mean
    found = calibrated(default_coding(steps), rows, prepared)
    if found.stop_below is None:
        return found

    def l0(stop_below: float) -> float:
        return float(pursue(rows, prepared, replace(found, stop_below=stop_below)).l0.double().mean())

    return replace(found, stop_below=saes.threshold_for(l0, steps, around=found.stop_below))


def autoencoders(case: Case, share: float, kinds: tuple[str, ...], cells: Cells, training: Cells) -> None:
    """Measure what is missing of the autoencoders of one model, seed and number of steps."""
    if case.seed:  # as for dictionaries: no bar is for the smallest, and some kinds are for the first seed
        kinds = kinds[:1] if share in SHARES[1:] else ()
    elif case.name in LARGE and share != SWEPT_AT:
        kinds = kinds[:1]
    facts = case.facts(case.steps(share))
    if kinds:
        at_equal_l0(case, share, cells)
    for kind in kinds:
        ways = [{"method": kind, "coding": "own"}]
        if kind == "topk":
            ways += [{"method": "pursuit on topk", "coding": coding} for coding in ("equal", "exact")]
        for way in ways:
            if not cells.where(**facts, **way):
                rate, passes = converged(case, facts["steps"], training)
                trained = train(case, kind, facts["steps"], rate, passes)
                made = {"atoms": case.atoms, "seconds": round(trained.seconds, 2), "passes": passes, "rate": rate}
                made |= {"device": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
                if kind == "batchtopk":  # as many features on the held-out text as the others have there
                    saes.use_as_many(trained.sae, case.place.compared, facts["steps"])
                used = trained.way
                if way["coding"] != "own":
                    used = pursuit_on(trained, case, facts["steps"], exact=way["coding"] == "exact")
                cells.add(**facts, **way, **made, **case.place.scores(used))
    print(f"{case.name}, seed {case.seed}, {facts['steps']} steps: {', '.join(kinds)}", flush=True)


def converged(case: Case, steps: int, training: Cells) -> tuple[float, int]:
    """The learning rate and the passes over the rows at which a TopK autoencoder is as good as it gets.

    The passes are those for one number of steps, the same for each; the rate is swept for each, with few passes, and
    then as much slower as many passes had made it there. Where few passes end better than that (with one active
    feature they may), they are taken.
    """
    swept_at = case.steps(SWEPT_AT)
    first, most = PASSES.get(case.width, PASSES_OF_WIDER)
    swept = {swept_at: swept_at, steps: swept_at if case.name in LARGE else steps}
    best = {size: min(RATES, key=lambda rate: fvu_of(case, own, rate, first, training)) for size, own in swept.items()}
    rate, passes = longest(case, swept_at, best[swept_at], first, most, training)
    ways = [(slowed(best[steps], RATES.index(best[swept_at]) - RATES.index(rate)), passes), (best[steps], first)]
    if swept[steps] != steps:  # no sweep of its own
        return ways[0]
    return min(ways, key=lambda way: fvu_of(case, steps, way[0], way[1], training))


def longest(case: Case, steps: int, best: float, first: int, most: int, training: Cells) -> tuple[float, int]:
    """The best of two rates, that of the sweep and the next slower one, and of the passes, doubled while it pays.

    What is best for few passes is often too fast for many. A rate goes on as long as twice the passes gain 2 %, but
    not behind a slower one.
    """
    passes, found = first, {rate: fvu_of(case, steps, rate, first, training) for rate in (best, slowed(best, 1))}
    ends = {(rate, first): fvu for rate, fvu in found.items()}
    while found and passes < most:
        passes *= 2
        longer = {rate: fvu_of(case, steps, rate, passes, training) for rate in found}
        ends |= {(rate, passes): fvu for rate, fvu in longer.items()}
        found = {
            rate: fvu
            for rate, fvu in longer.items()
            if fvu < (1 - GAIN) * found[rate] and all(fvu < other for own, other in longer.items() if own < rate)
        }
    return min(ends, key=lambda end: ends[end])


def slowed(rate: float, places: int) -> float:
    """A rate so many places further down, or the lowest."""
    return RATES[max(0, RATES.index(rate) - places)]


def fvu_of(case: Case, steps: int, rate: float, passes: int, training: Cells) -> float:
    """Of a TopK autoencoder; measured once."""
    facts = {"model": case.name, "steps": steps, "rate": rate, "passes": passes}
    known = training.where(**facts)
    if known:
        return float(known[0]["fvu"])
    trained = train(case, "topk", steps, rate, passes)
    scores = case.place.scores(trained.way)
    training.add(**facts, seconds=round(trained.seconds, 2), **scores)
    print(f"{case.name}, {steps} steps, rate {rate}, {passes} passes: {scores['fvu']:.4f}", flush=True)
    return scores["fvu"]


def train(case: Case, kind: str, steps: int, rate: float, passes: int) -> saes.TrainedSae:
    """An autoencoder of a kind, from where it was kept when it was trained before."""
    folder = TRAINED / f"{case.name.replace('/', '_')}-{kind.replace(' ', '_')}-{steps}-{rate}-{passes}-{case.seed}"
    trained = saes.TrainedSae.kept(folder)
    if trained is None:
        trained = trained_anew(case, kind, steps, rate, passes)
        trained.keep(folder)
    return trained


def trained_anew(case: Case, kind: str, steps: int, rate: float, passes: int) -> saes.TrainedSae:
    """The same, trained."""
    rows = case.activations.rows
    start = None
    if kind == "topk from data":
        start = itda.build_from_activations(
            case.activations, atoms=case.atoms, steps=steps, method="random", seed=case.seed, progress=False
        ).atoms
    kind = kind.partition(" ")[0]
    _ = case.place
    return saes.train(rows, case.atoms, steps, kind=kind, rate=rate, passes=passes, seed=case.seed, start=start)


def pursuit_on(trained: saes.TrainedSae, case: Case, steps: int, *, exact: bool) -> Way:
    """A pursuit on the decoder of an autoencoder, in place of its encoder."""
    directions, bias = trained.directions()
    prepared = prepare(directions)
    coding = default_coding(steps)
    coding = coding.with_options(steps=steps) if exact else equal_coding(case, steps, bias, prepared)

    return Way(
        lambda rows: pursue(rows - bias, prepared, coding),
        lambda codes: (rebuild(codes, directions) + bias, codes.l0),
    )
