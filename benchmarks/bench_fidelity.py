"""Held-out worth of every way to a dictionary, and of sparse autoencoders, at equal atoms and steps, on real models.

python benchmarks/bench_fidelity.py [MODEL ...] [--seeds 3] [--only builders|autoencoders|table]

"Paper" is paper mode with plain pursuit at whichever threshold is best for each score. Autoencoders are trained to
convergence: the rate is the best of a sweep or the next slower one, the passes over the rows are doubled until that
gains less than 2 %.
Times are those of one thread, as the processor counts them, so that other work on the machine is not in them; with
a GPU, of the clock.
What was measured is kept in benchmarks/results/cells, so a run that was stopped goes on.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import saes
import torch
from cells import Cell, Cells
from common import DATA, clock, model_folder, report
from fronts import draw
from scoring import HeldOut, Way, of_dictionary

import itda
from itda.building.calibrating import calibrated
from itda.pursuit import Prepared, default_coding, prepare, pursue, rebuild

# model -> texts
CASES = {
    "stories260k": ("tinystories_1000.json",),
    "babyllama-char105": ("tinystories_1000.json",),
    "babyllama-char361": ("tinystories_1000.json",),
    "seeds/gpt2-s21": ("wikitext_1000.json",),
    "gpt2-wide": ("wikitext_1000.json",),
    "minilm": ("wikitext_1000.json", "wikitext2_valid.txt"),
}
LARGE = ("gpt2-wide", "minilm")
"""Here autoencoders take hours: one seed, the rate swept for one number of steps, and what is not plain TopK at that
only."""
TOKENS, HELD_OUT_TOKENS = 100_000, 10_000
ATOMS_A_DIMENSION = 8
SHARES = (0.015, 0.03, 0.06, 0.12)
"""Steps in a dimension."""
SWEPT_AT = 0.06
BY_WORTH = (SWEPT_AT, 0.03, 0.12, 0.015)
"""In which order autoencoders are trained: where most is known first, that which no bar is for last."""
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
GAIN = 0.02
"""In FVU, by twice the passes: less, and an autoencoder counts as converged."""
PASSES = {64: (20, 320), 128: (10, 320)}
PASSES_OF_WIDER = (10, 160)
"""At first, and at most; by width."""
COSINE_GAPS = (0.4, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02)
JUDGED = ("budget", "mixture", "learned")
"""With paper mode, what every seed is for; the others are measured with the first."""
METHODS = ("greedy", *JUDGED, "random", "kmeans", "token_means")
AUTOENCODERS = ("topk", "batchtopk", "topk from data")
TRAINED = Path(__file__).parent / "trained"
CALLED = {"exact": "{}, exactly K", "equal": "{}, at an L0 of K"}
"""What a method is called where every code has K atoms, not as many as the row needs and K in the mean; and where the
mean is K on the held-out text, not on rows to build from: beside autoencoders, which have K there too."""
EXACT, EQUAL = (tuple(map(name.format, JUDGED)) for name in CALLED.values())
ON_TOPK = tuple(name.format("pursuit on topk") for name in CALLED.values())
BESIDE = ("budget", "mixture", *EXACT[:2], *EQUAL[:2], *AUTOENCODERS, *ON_TOPK)
ORDER = ("paper", *METHODS, *EXACT, *EQUAL, *AUTOENCODERS, *ON_TOPK)
SCORES = ("fvu", "residual_fvu", "delta_ce")


class Case:
    """One model and one seed: activations to build from, and held-out text to measure on."""

    def __init__(self, name: str, seed: int, folder: Path | None = None, text: itda.Corpus | None = None) -> None:
        self.name, self.seed = name, seed
        self.model = itda.load_model(folder or model_folder(name))
        width = self.model.site(self.model.middle_site).width
        assert width is not None
        self.width, self.atoms = width, ATOMS_A_DIMENSION * width
        self.train, self.held_out = (text or corpus(name)).split(held_out=0.1, seed=seed)

    @cached_property
    def activations(self) -> itda.Activations:
        """What everything is built from."""
        return itda.capture(self.model, self.train, tokens=TOKENS, seed=self.seed, progress=False)

    @cached_property
    def place(self) -> HeldOut:
        """What everything is measured on."""
        shown = itda.build_from_activations(self.activations, atoms=64, steps=1, method="random", progress=False)
        assert shown.provenance is not None
        assert shown.token_means is not None
        capture = shown.provenance.capture
        return HeldOut(self.model, self.held_out, self.activations.site, capture, shown.token_means, HELD_OUT_TOKENS)

    def facts(self, steps: int) -> Cell:
        """What names a cell of it."""
        return {"model": self.name, "seed": self.seed, "steps": steps, "share": round(steps / self.width, 4)}

    def steps(self, share: float) -> int:
        """K for a share of the width."""
        return max(1, round(share * self.width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=("builders", "autoencoders", "table"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cells, training = Cells("fidelity"), Cells("autoencoder_training")
    if asked.only not in ("autoencoders", "table"):
        for seed in range(asked.seeds):  # all models once, before any is measured again
            for name in asked.models:
                builders(Case(name, seed), cells)
    if asked.only not in ("builders", "table"):
        wanted = [(name, seed) for seed in range(asked.seeds) for name in asked.models]
        cases = [Case(name, seed) for name, seed in wanted if not (seed and name in LARGE)]
        for kinds in (AUTOENCODERS[:1], AUTOENCODERS):
            for share in BY_WORTH:
                for case in cases:
                    autoencoders(case, share, kinds, cells, training)
    known = finished(cells.all)
    draw(sorted(known, key=lambda cell: list(CASES).index(cell["model"])))
    facts = {"tokens": TOKENS, "held_out_tokens": HELD_OUT_TOKENS, "threads": 1}
    report("fidelity", summary(known), **facts)
    report("autoencoders", [row for row in summary(beside_autoencoders(known)) if row["method"] in BESIDE], **facts)
    if training.all:
        report("autoencoder_training", training.all, swept_at=SWEPT_AT)


def builders(case: Case, cells: Cells, shares: tuple[float, ...] = SHARES) -> None:
    """Measure what is missing of the dictionaries of one model and seed."""
    for share in shares[bool(case.seed) :]:  # no bar is for the smallest
        facts = case.facts(case.steps(share))
        for method, options in dictionaries(case.seed):
            missing = [one for one in codings(method) if not cells.where(**facts, method=method, coding=one)]
            if not missing:
                continue
            dictionary, made = build(case, facts["steps"], options)
            for coding in missing:
                exact = dictionary.coding.with_options(steps=facts["steps"]) if coding == "exact" else None
                scores = case.place.scores(of_dictionary(dictionary, exact))
                cells.add(**facts, method=method, coding=coding, **made, **scores)
        print(f"{case.name}, seed {case.seed}, {facts['steps']} steps: dictionaries", flush=True)


def build(case: Case, steps: int, options: dict[str, Any]) -> tuple[itda.Dictionary, Cell]:
    """A dictionary, and what it took."""
    _, rows = case.place, case.activations.rows  # captured before the clock starts
    begin = clock()
    dictionary = itda.build_from_activations(
        case.activations, atoms=case.atoms, steps=steps, seed=case.seed, progress=False, **options
    )
    return dictionary, {"atoms": len(dictionary), "seconds": round(clock() - begin, 2), "rows": len(rows)}


def at_equal_l0(case: Case, share: float, cells: Cells) -> None:
    """Measure what is missing of the dictionaries with K atoms in the mean on the held-out text."""
    facts = case.facts(case.steps(share))
    for method in JUDGED[:2]:
        if cells.where(**facts, method=method, coding="equal"):
            continue
        dictionary, made = build(case, facts["steps"], {"method": method})
        coding = equal_coding(case, facts["steps"], dictionary.mean, prepare(dictionary.atoms))
        scores = case.place.scores(of_dictionary(dictionary, coding))
        cells.add(**facts, method=method, coding="equal", **made, **scores)


def dictionaries(seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every way to one that is measured with a seed, and the options it takes."""
    yield from ((method, {"method": method}) for method in (JUDGED if seed else METHODS))
    yield from ((f"paper, gap {gap}", {"method": "paper", "max_cosine_gap": gap}) for gap in COSINE_GAPS)


def codings(method: str) -> tuple[str, ...]:
    """The ways in which codes of a dictionary are made."""
    if method.startswith("paper"):
        return ("plain",)
    return ("default", "exact") if method in JUDGED else ("default",)


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


def corpus(name: str) -> itda.Corpus:
    """The texts of a model: the encoder's are more, since one file has too few of its tokens."""
    texts: list[str] = []
    for file in CASES[name]:
        split_on = "\n = " if file.endswith(".txt") else None
        texts += [document.text for document in itda.Corpus.from_files(DATA / "text" / file, split_on=split_on)]
    return itda.Corpus.from_texts(list(dict.fromkeys(texts)))


def finished(cells: list[Cell]) -> list[Cell]:
    """Those of a model, seed and number of steps of which all dictionaries were measured."""
    there: dict[tuple[Any, ...], set[tuple[str, str]]] = {}
    for cell in cells:
        there.setdefault((cell["model"], cell["seed"], cell["steps"]), set()).add((cell["method"], cell["coding"]))

    def is_there(cell: Cell) -> bool:
        wanted = {(method, coding) for method, _ in dictionaries(cell["seed"]) for coding in codings(method)}
        return wanted <= there[cell["model"], cell["seed"], cell["steps"]]

    return [cell for cell in cells if is_there(cell)]


def beside_autoencoders(cells: list[Cell]) -> list[Cell]:
    """Those of the models, seeds and numbers of steps with which a TopK autoencoder was trained too."""
    same = ("model", "seed", "steps")
    trained = {tuple(cell[name] for name in same) for cell in cells if cell["method"] == "topk"}
    return [cell for cell in cells if tuple(cell[name] for name in same) in trained]


def summary(cells: list[Cell]) -> list[Cell]:
    """A row for each model, number of steps and method: medians over seeds, and as shares of paper's best.

    The residual FVU has the FVU's ratios: both are the same error, as shares of two fixed sums.
    """
    groups: dict[tuple[str, int, str], list[Cell]] = {}
    for cell in [*paper_cells(cells), *cells]:
        name = CALLED.get(cell["coding"], "{}").format(cell["method"])
        if name in ORDER:
            groups.setdefault((cell["model"], cell["steps"], name), []).append(cell)
    rows = []
    models = list(dict.fromkeys([*CASES, *(cell["model"] for cell in cells)]))
    for (model, steps, method), group in sorted(
        groups.items(), key=lambda item: (models.index(item[0][0]), item[0][1], ORDER.index(item[0][2]))
    ):
        row: Cell = {"model": model, "K": steps, "K/D": group[0]["share"], "method": method}
        for name, score in {"FVU": "fvu", "res. FVU": "residual_fvu", "dCE": "delta_ce"}.items():
            own = [cell for cell in group if score in cell]
            row[name] = statistics.median(cell[score] for cell in own) if own else ""
            if score != "residual_fvu":
                ratios = [cell[score] / best_paper(cells, cell, score) for cell in own]
                row[f"{name}/paper"] = statistics.median(ratios) if own else ""
        row["closes"] = ""
        if method in ("mixture", EXACT[JUDGED.index("mixture")]):
            row["closes"] = statistics.median(closes(cells, cell) for cell in group)
        row["L0"] = round(statistics.median(cell["l0"] for cell in group), 2)
        row["s"] = round(statistics.median(cell["seconds"] for cell in group), 1)
        row["s/M"] = round(statistics.median(cell["seconds_a_million"] for cell in group), 1)
        row["passes"], row["device"] = group[0].get("passes", ""), group[0].get("device", "")
        row["seeds"] = len(group)
        rows.append(row)
    return rows


def paper_cells(cells: list[Cell]) -> list[Cell]:
    """Paper mode as one method: at the threshold that is best for each score."""
    groups: dict[tuple[str, int, int], list[Cell]] = {}
    for cell in cells:
        if cell["method"].startswith("paper"):
            groups.setdefault((cell["model"], cell["seed"], cell["steps"]), []).append(cell)
    found = []
    for group in groups.values():
        best = min(group, key=lambda cell: cell["fvu"])
        scores = {score: min(cell[score] for cell in group) for score in SCORES if score in best}
        found.append({**best, "method": "paper", **scores})
    return found


def best_paper(cells: list[Cell], like: Cell, score: str) -> float:
    """The best score of paper mode with the same model, seed and steps, at any threshold."""
    same = ("model", "seed", "steps")
    rivals = (cell for cell in cells if all(cell[name] == like[name] for name in same))
    return float(min(cell[score] for cell in rivals if cell["method"].startswith("paper")))


def closes(cells: list[Cell], like: Cell) -> float:
    """How much of the way from real activations (`budget`) to `learned` directions a dictionary goes, in FVU."""
    same = ("model", "seed", "steps", "coding")
    fvu = {cell["method"]: cell["fvu"] for cell in cells if all(cell[name] == like[name] for name in same)}
    return float((fvu["budget"] - like["fvu"]) / (fvu["budget"] - fvu["learned"]))


if __name__ == "__main__":
    main()
