"""Do the same methods look as good where there is nothing to find? And does what they find hold elsewhere?

python benchmarks/bench_controls.py

- a model of the same shape with random weights; Gaussian rows with the mean and covariance of real ones
- built on one corpus, measured on another: stories, and a novel
- built and measured with near-duplicate documents removed

TopK autoencoders beside them, on the two smaller models, and elsewhere on the smallest: as many passes as on the
trained model at K/D of 6 %, the rate swept anew with few passes and slowed as much as it was there.

`of random` is what is left in what random activations leave with the same codes: 1 means that nothing was found.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import fidelity_saes
import saes
import torch
import transformers
from cases import Case, corpus
from cells import Cell, Cells
from common import DATA, report
from fidelity_saes import RATES
from scoring import HeldOut, Way, of_dictionary

import itda
from itda.capturing import Capture, CaptureOptions
from itda.data.activations import Activations

MODELS = ("stories260k", "babyllama-char105", "gpt2-wide")
AUTOENCODERS = {"trained", "random weights", "Gaussian rows"}
"""Of these controls of all models but the last; of every one of the first."""
METHODS: dict[str, dict[str, Any]] = {
    "budget": {}, "mixture": {}, "learned": {}, "kmeans": {}, "random": {},
    "paper": {"max_cosine_gap": 0.1}, "random, plain coding": {"method": "random"},
}  # fmt: skip
PLAIN = ("paper", "random, plain coding")
"""With plain pursuit, K atoms for every row and signed; the others with the default coding."""
READ = ("budget", "paper")
"""Whose atoms are read as well."""
SHARE, TOKENS, HELD_OUT_TOKENS = 0.06, 60_000, 10_000
ALIKE = 0.5
"""Share of the eight-word stretches of the shorter document that two near-duplicates have in common."""


def main() -> None:
    rows: list[Cell] = []
    for name in MODELS:
        case = Case(name, 0)
        trained = activations(case.model, case.train, case.activations.site)
        read = itda.capture(case.model, case.held_out, case.activations.site, progress=False)
        rows += measured(case, "trained", trained, place(case, case.model, case.held_out, trained), read)
        fresh = untrained(case)
        random = activations(fresh, case.train, case.activations.site)
        read = itda.capture(fresh, case.held_out, case.activations.site, progress=False)
        rows += measured(case, "random weights", random, place(case, fresh, case.held_out, random), read)
        rows += gaussian(case, trained)
        distinct, left_out = without_near_duplicates(case.train, [])
        held_out, left_out_there = without_near_duplicates(case.held_out, list(distinct))
        apart = activations(case.model, distinct, case.activations.site)
        what = f"{left_out + left_out_there} near-duplicates removed"
        rows += measured(case, what, apart, place(case, case.model, held_out, apart))
        print(name, flush=True)
    for name in MODELS[:2]:
        rows += elsewhere(Case(name, 0))
    report("controls", rows, share=SHARE, tokens=TOKENS, held_out_tokens=HELD_OUT_TOKENS)


def activations(model: Any, text: itda.Corpus, site: str) -> Activations:
    """Some of the activations of a text, or all that there are."""
    there = Capture(model, text, [site], CaptureOptions()).total
    found = itda.capture(model, text, site, tokens=min(TOKENS, there), progress=False)
    assert isinstance(found, Activations)
    return found


def place(case: Case, model: Any, held_out: itda.Corpus, rows: Activations) -> HeldOut:
    """Where dictionaries built from some rows are measured."""
    shown = itda.build_from_activations(rows, atoms=64, steps=1, method="random", progress=False)
    assert shown.provenance is not None
    assert shown.token_means is not None
    return HeldOut(model, held_out, rows.site, shown.provenance.capture, shown.token_means, HELD_OUT_TOKENS)


def build(case: Case, rows: Any, method: str) -> itda.Dictionary:
    """A dictionary with the coding that the method is measured with."""
    steps = case.steps(SHARE)
    coding = {"coding": itda.Coding(steps=steps)} if method in PLAIN else {"steps": steps}
    options = {"method": method, **METHODS[method], **coding}
    return itda.build_from_activations(rows, atoms=case.atoms, progress=False, **options)


def measured(case: Case, what: str, rows: Activations, where: HeldOut, read: Any = None) -> list[Cell]:
    """Every method on some rows; and how well atoms can be read, where there are held-out activations for that."""
    found = []
    for method in METHODS:
        dictionary = build(case, rows, method)
        scores = where.scores(of_dictionary(dictionary))
        lift = itda.read_atoms(dictionary, read).lift if read is not None and method in READ else ""
        found.append({"model": case.name, "control": what, "method": method, **shown(scores), "lift": lift})
    return beside_random(found + autoencoder(case, what, rows.rows, where.scores))


def gaussian(case: Case, rows: Activations) -> list[Cell]:
    """Every method on Gaussian rows."""
    mean = rows.rows.mean(0)
    values, directions = torch.linalg.eigh((rows.rows - mean).T.double().cov())
    spread = (directions * values.clamp(min=0).sqrt()).float()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn((len(rows) + HELD_OUT_TOKENS, case.width), generator=generator) @ spread.T + mean
    held_out = drawn[len(rows) :]

    def scores(way: Way) -> dict[str, float]:
        error = held_out - way.decode(way.encode(held_out))[0]
        return {"fvu": float(error.square().sum() / (held_out - held_out.mean(0)).square().sum())}

    found = []
    for method in METHODS:
        found_here = scores(of_dictionary(build(case, drawn[: len(rows)], method)))
        found.append(
            {"model": case.name, "control": "Gaussian rows", "method": method, **shown(found_here), "lift": ""}
        )
    return beside_random(found + autoencoder(case, "Gaussian rows", drawn[: len(rows)], scores))


def autoencoder(case: Case, what: str, rows: torch.Tensor, scores: Callable[[Way], dict[str, float]]) -> list[Cell]:
    """TopK on some rows, where one is trained for a control."""
    if case.name != MODELS[0] and not (case.name in MODELS[:-1] and what in AUTOENCODERS):
        return []
    facts = {"model": case.name, "control": what, "method": "topk"}
    cells = Cells("controls")
    if not cells.where(**facts):
        steps, known = case.steps(SHARE), Cells("autoencoder_training")
        first, _ = fidelity_saes.PASSES[case.width]

        def trained(rate: float, passes: int) -> saes.TrainedSae:
            return saes.train(rows, case.atoms, steps, rate=rate, passes=passes, seed=0)

        quick = min(RATES, key=lambda rate: fidelity_saes.fvu_of(case, steps, rate, first, known))
        rate, passes = fidelity_saes.converged(case, steps, known)
        best = min(RATES, key=lambda rate: scores(trained(rate, first).way)["fvu"])
        best = fidelity_saes.slowed(best, RATES.index(quick) - RATES.index(rate))
        cells.add(**facts, rate=best, passes=passes, **scores(trained(best, passes).way))
    found = cells.where(**facts)[0]
    return [{**facts, **shown(found), "lift": ""}]


def untrained(case: Case) -> Any:
    """The same model with the weights it would begin training with."""
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(case.model.module.config).eval()
    return itda.wrap(module, case.model.tokenizer)


def elsewhere(case: Case) -> list[Cell]:
    """Built on one text, measured on the other, for stories and a novel."""
    novel = itda.Corpus.from_files(DATA / "text" / "war_and_peace.txt", split_on="\n\n\n")
    texts = {"stories": corpus(case.name), "War and Peace": novel}
    halves = {name: text.split(held_out=0.1, seed=0) for name, text in texts.items()}
    rows = {name: activations(case.model, half[0], case.activations.site) for name, half in halves.items()}
    found = []
    for there in texts:
        where = place(case, case.model, halves[there][1], rows[there])
        for built in texts:
            cells = []
            for method in METHODS:
                dictionary = build(case, rows[built], method)
                scores = where.scores(of_dictionary(dictionary))
                what = f"built on {built}, measured on {there}"
                cells.append({"model": case.name, "control": what, "method": method, **shown(scores), "lift": ""})
            cells += autoencoder(case, what, rows[built].rows, where.scores)
            found += beside_random(cells)
    return found


def shown(scores: dict[str, float]) -> dict[str, Any]:
    """The scores that are shown, those that there are none of as well."""
    return {name: scores.get(name, "") for name in ("fvu", "residual_fvu", "delta_ce")}


def beside_random(cells: list[Cell]) -> list[Cell]:
    """The same with what is left as a share of what random activations leave with the same coding."""
    random = {cell["method"] in PLAIN: cell["fvu"] for cell in cells if cell["method"].startswith("random")}
    return [{**cell, "of random": cell["fvu"] / random[cell["method"] in PLAIN]} for cell in cells]


def without_near_duplicates(text: itda.Corpus, known: list[Any]) -> tuple[itda.Corpus, int]:
    """The documents that share few stretches of eight words with any before them, or with known ones."""
    seen: dict[bytes, set[int]] = {}
    sizes: list[int] = []
    kept, number = [], 0
    for document in [*known, *text]:
        words = re.findall(r"\w+", document.text.lower())
        stretches = {
            hashlib.blake2b(" ".join(words[start : start + 8]).encode(), digest_size=8).digest()
            for start in range(max(1, len(words) - 7))
        }
        shared: dict[int, int] = {}
        for stretch in stretches:
            for other in seen.get(stretch, ()):
                shared[other] = shared.get(other, 0) + 1
        if number >= len(known):
            if any(count >= ALIKE * min(len(stretches), sizes[other]) for other, count in shared.items()):
                sizes.append(len(stretches))
                number += 1
                continue
            kept.append(document.text)
        sizes.append(len(stretches))
        for stretch in stretches:
            seen.setdefault(stretch, set()).add(number)
        number += 1
    return itda.Corpus.from_texts(kept), len(text) - len(kept)


if __name__ == "__main__":
    main()
