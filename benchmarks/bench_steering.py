"""What steering vectors do to what they are for, beside what it costs: every method, with random vectors as control.

python benchmarks/bench_steering.py [MODEL ...]

For each model, set of texts and method: a vector is fitted to forty pairs, sites and strengths are swept on twenty
held-out contrasts, and what is recommended is measured on forty others: the rise of log p(target) - log p(opposite)
after a prompt, in nats, with its 95 % interval, and the perplexity on neutral text as a multiple of the plain one.
Target and opposite are words such as happy and sad, or whole sentences of stories and of an encyclopedia. Beside it
random vectors at the same place and strength (the most of three), the best that the worst site allows at a fair cost,
and strength 1 and -1 at the middle layer, which a user without a sweep would try.
"""

import argparse
import statistics
from typing import Any

import torch
from common import model_folder, report
from steering_sets import SETS, Sides, neutral

import itda
from itda import steer
from itda.models.loading import Model
from itda.steer.sweeping import ends_of

MODELS = {
    "gpt2-wide": "wikitext_1000.json",
    "seeds/gpt2-s21": "wikitext_1000.json",
    "babyllama-char361": "tinystories_1000.json",
}
FIT, CHOOSE = 40, 20
STRENGTHS = (0.1, 0.2, 0.4, 0.8)
METHODS = ("mean", "pca", "pca_centred", "logistic", "tokens", "attribution")
RANDOM = 3
MOST_PERPLEXITY = 1.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    rows: list[dict[str, Any]] = []
    for name in parser.parse_args().models:
        model = itda.load_model(model_folder(name))
        for make in SETS.values():
            sides = make()
            for method in METHODS:
                rows.append(
                    {"model": name, "set": sides.name, "method": method, **measured(model, name, sides, method)}
                )
                print(rows[-1], flush=True)
    report("steering", rows, pairs=FIT, chosen_on=CHOOSE, most_perplexity=MOST_PERPLEXITY)


def measured(model: Model, name: str, sides: Sides, method: str) -> dict[str, Any]:
    """What one method comes to."""
    layers = [site.name for site in model.sites() if site.name.startswith("resid_post.")][:-1]
    vector = fitted(model, sides, method, layers)
    text = neutral(MODELS[name], 8)
    swept = steer.sweep(
        model, vector, sides.contrasts[:CHOOSE], text, strengths=STRENGTHS, most_perplexity=MOST_PERPLEXITY,
        progress=False,
    )  # fmt: skip
    test = sides.contrasts[CHOOSE:]
    plain, place = steer.contrast(model, test), steer.NeutralText(model, text)
    unsteered = place.measure().perplexity

    def effect(own: steer.SteeringVector, strength: float) -> tuple[torch.Tensor, float]:
        with own.apply(model, strength):
            return steer.contrast(model, test) - plain, place.measure().perplexity / unsteered

    best = swept.recommended
    if best is None:
        return {"site": "", "strength": "", "effect": "", "95 %": "", "perplexity": "", **dict.fromkeys(BESIDE, "")}
    risen, cost = effect(vector.at(best.site), best.strength)
    low, high = ends_of(risen)
    drawn = [float(effect(noise(model, vector, best.site, seed), best.strength)[0].mean()) for seed in range(RANDOM)]
    fair = [one for one in swept.points if one.perplexity <= MOST_PERPLEXITY * swept.plain_perplexity]
    by_site = {site: max((one for one in fair if one.site == site), key=lambda one: one.effect, default=None)
               for site in layers}  # fmt: skip
    worst = min((one for one in by_site.values() if one is not None), key=lambda one: one.effect)
    worst_effect, _ = effect(vector.at(worst.site), worst.strength)
    naive = {strength: effect(vector.at(model.middle_site), strength) for strength in (1.0, -1.0)}
    wins = float(risen.mean()) > float(worst_effect.mean()) and all(
        float(risen.mean()) > float(other.mean()) or price > MOST_PERPLEXITY for other, price in naive.values()
    )
    return {
        "site": best.site, "strength": best.strength, "effect": round(float(risen.mean()), 3),
        "95 %": f"{low:+.2f} to {high:+.2f}", "perplexity": round(cost, 3), "random": round(max(drawn), 3),
        "worst site": round(float(worst_effect.mean()), 3), "at 1": shown(*naive[1.0]), "at -1": shown(*naive[-1.0]),
        "beats both": wins,
    }  # fmt: skip


BESIDE = ("random", "worst site", "at 1", "at -1", "beats both")


def fitted(model: Model, sides: Sides, method: str, layers: list[str]) -> steer.SteeringVector:
    """A vector from the first of the texts, which follow on the prompt as those that are tested on do."""
    if method == "attribution":
        given = [steer.Contrast(one[:80], one[80:] or ".", other[80:] or ".") for one, other in sides.pairs(0, FIT)]
        return steer.attribution.fit(model, given, layers, steps=8, progress=False)
    pairs = [(sides.prompt + one, sides.prompt + other) for one, other in sides.pairs(0, FIT)]
    if method == "tokens":
        return steer.SteeringVector.fit(model, pairs, layers, read="tokens", progress=False)
    return steer.SteeringVector.fit(model, pairs, layers, method=method, progress=False)  # type: ignore[arg-type]


def noise(model: Model, vector: steer.SteeringVector, site: str, seed: int) -> steer.SteeringVector:
    """A random direction of the vector's length at a site."""
    drawn = torch.randn(len(vector.directions[site]), generator=torch.Generator().manual_seed(seed))
    length = torch.linalg.vector_norm(vector.directions[site])
    direction = drawn / torch.linalg.vector_norm(drawn) * length
    return steer.SteeringVector.from_direction(model, site, direction, norm=vector.norms[site])


def shown(risen: torch.Tensor, cost: float) -> str:
    """Effect, and perplexity as a multiple."""
    return f"{statistics.fmean(risen.tolist()):+.2f} / {cost:.2f}"


if __name__ == "__main__":
    main()
