"""What is trained for steering, on texts that had no part in it: maps, controllers, rules over atoms, carried vectors.

python benchmarks/bench_steering_trained.py [maps] [controller] [rules] [acting] [transfer]

maps: how far the mean 1-D Wasserstein distance between two kinds of texts falls at the trained layers, from 32 texts of
each; `floor` is that of other texts of the target's own kind, below which no map can bring it. controller: how well
its strength tells held-out prompts of one set from another set's (AUC). rules: balanced accuracy on held-out
sentences, beside a logistic probe on the same atoms. acting: what such a rule steers as a gate. transfer: what
a vector does in another seed at the same divergence on neutral text, as a share of one that was fitted there.
"""

import argparse
from typing import Any

import numpy as np
import torch
from common import DATA, model_folder, report
from steering_sets import SETS, emotions, neutral, paragraphs, questions, sentiment

import itda
from itda import compare, steer
from itda.models.loading import Model
from itda.models.losses import predict
from itda.steer.concepts import text_features
from itda.steer.reading import read_texts
from itda.steer.sweeping import ends_of

MAPS = 32
HELD_OUT = 200
STEPS = 150
KL = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    for part in parser.parse_args().parts:
        report(f"steering_{part}", PARTS[part]())


def maps() -> list[dict[str, Any]]:
    """Affine maps."""
    rows = []
    for name in ("seeds/gpt2-s21", "gpt2-wide"):
        model = itda.load_model(model_folder(name))
        sites = [site.name for site in model.sites() if site.name.startswith("resid_post.")]
        for sides in (paragraphs(), sentiment(), emotions()):
            target, source = ([sides.prompt + text for text in side] for side in (sides.first, sides.second))
            mapped = steer.affine.fit(
                model, source[:MAPS], target[:MAPS], sites, read="mean", steps=STEPS, progress=False
            )
            held_out = min(HELD_OUT, (len(target) - MAPS) // 2)
            wanted = states(model, target[MAPS : MAPS + held_out], sites)
            before = apart(states(model, source[MAPS : MAPS + held_out], sites), wanted)
            with mapped.apply(model):
                after = apart(states(model, source[MAPS : MAPS + held_out], sites), wanted)
            floor = apart(states(model, target[MAPS + held_out : MAPS + 2 * held_out], sites), wanted)
            rows.append({
                "model": name, "from": sides.name.partition(" / ")[2], "to": sides.name.partition(" / ")[0],
                "before": before, "after": after, "falls by": 1 - after / before, "floor": floor,
                "floor falls by": 1 - floor / before, "held out": held_out,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def states(model: Model, texts: list[str], sites: list[str]) -> dict[str, torch.Tensor]:
    """Mean activations of each text."""
    return read_texts(model, texts, sites, read="mean", progress=False).rows


def apart(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The mean over sites and dimensions of the distance, in the second's spreads."""
    found = [(steer.affine.wasserstein(first[name], second[name]) / second[name].std(0)).mean() for name in first]
    return float(torch.stack(found).mean())


def controller() -> list[dict[str, Any]]:
    """Controllers."""
    from sklearn.metrics import roc_auc_score

    rows = []
    for name in ("gpt2-wide", "seeds/gpt2-s21"):
        model = itda.load_model(model_folder(name))
        sites = [site.name for site in model.sites() if site.name.startswith("resid_post.")][1:-1]
        for sides, others in ((emotions(), questions(200)), (sentiment(), emotions().first)):
            vector = steer.SteeringVector.fit(model, sides.pairs(0, 40), sites, progress=False)
            contrasts = [(one[:60], one[60:] or ".", other[60:] or ".") for one, other in sides.pairs(0, 40)]
            made = steer.controller.fit(model, vector, contrasts, others[:60], steps=100, progress=False)
            own = made.read(model, [text[:60] for text in sides.first[60:160]], progress=False)
            beside = made.read(model, others[80:180], progress=False)
            scores = torch.cat([own.strengths, beside.strengths])
            labels = [1] * len(own.strengths) + [0] * len(beside.strengths)
            most = int(own.weights.mean(0).argmax())
            rows.append({
                "model": name, "steered": sides.name, "left alone": "questions" if "?" in others[0] else "situations",
                "AUC": float(roc_auc_score(labels, scores)), "layer of most weight": sites[most],
                "its weight": float(own.weights.mean(0)[most]),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def rules() -> list[dict[str, Any]]:
    """Rules over atoms that tell praise from blame, in an encoder and a language model."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    (train, kinds), (test, held) = sentences("train", 2000), sentences("test", 900)
    rows = []
    for name, site in (("minilm", "resid_post.4"), ("gpt2-wide", "resid_post.6")):
        model = itda.load_model(model_folder(name))
        dictionary = itda.build(
            model, itda.Corpus.from_texts(train), site=site, atoms=768, steps=8, tokens=30_000, method="greedy",
            progress=False,
        )  # fmt: skip
        features, beyond = (text_features(dictionary, model, texts, progress=False) for texts in (train, test))
        for count in (4, 8, 16, 32):
            for against in (True, False):
                praise = steer.Concept.from_features("praise", features, kinds, atoms=count, against=against)
                blame = steer.Concept.from_features("blame", features, ~kinds, atoms=count, against=against)
                concepts = [praise] if against else [praise, blame]
                condition = "praise" if against else "praise or not blame"
                made = steer.Rules(dictionary, concepts, [f"good if {condition}"])
                said = np.array(["good" in reading.holds for reading in made.infer(beyond)])
                atoms = sorted({atom for concept in concepts for atom in concept.atoms})
                own, other = features[:, atoms].toarray(), beyond[:, atoms].toarray()
                spread = own.std(0)
                probe = LogisticRegression(class_weight="balanced", max_iter=2000).fit(own / spread, kinds)
                rule = balanced_accuracy_score(held, said)
                probed = balanced_accuracy_score(held, probe.predict(other / spread))
                rows.append({
                    "model": name, "site": site, "rule": f"good if {condition}", "atoms": len(atoms), "rules": rule,
                    "probe": probed, "rules less probe": rule - probed,
                })  # fmt: skip
        print(rows[-8:], flush=True)
    return rows


def acting() -> list[dict[str, Any]]:
    """A rule as a gate in a language model: which held-out sentences are steered, and how far predictions move."""
    from sklearn.metrics import balanced_accuracy_score

    (train, kinds), (test, held) = sentences("train", 2000), sentences("test", 300)
    model = itda.load_model(model_folder("gpt2-wide"))
    dictionary = itda.build(
        model, itda.Corpus.from_texts(train), site="resid_post.6", atoms=768, steps=8, tokens=30_000, method="greedy",
        progress=False,
    )  # fmt: skip
    praise = steer.Concept.fit("praise", dictionary, model, train, kinds, atoms=32, progress=False)
    made = steer.Rules(dictionary, [praise], ["good if praise"])
    read = np.array(["good" in reading.holds for reading in made.read(model, test, progress=False)])
    gate = made.gate(model, "good")
    drawn = torch.randn(model.width, generator=torch.Generator().manual_seed(0))
    vector = steer.SteeringVector.from_direction(model, "resid_post.3", drawn / drawn.norm())
    moved = []
    for text in test:
        inputs = model.tokenizer(text, return_tensors="pt")
        plain = predict(model, inputs)
        with vector.apply(model, 0.5, when=gate):
            moved.append(float((predict(model, inputs) - plain).abs().max()))
    steered = np.array(moved) > 1e-4
    return [{
        "model": "gpt2-wide", "rule": "good if praise", "atoms": len(praise.atoms), "sentences": len(test),
        "steered": int(steered.sum()), "steered as read": float((steered == read).mean()),
        "balanced accuracy": float(balanced_accuracy_score(held, steered)),
        "least moved of the steered": float(np.array(moved)[steered].min()),
        "most moved of the others": float(np.array(moved)[~steered].max()),
    }]  # fmt: skip


def sentences(split: str, count: int) -> tuple[list[str], np.ndarray]:
    """Some sentences of SST-2, evenly, and which of them praise."""
    lines = (DATA / "labelled" / "sst2" / f"stsa.binary.{split}").read_text().splitlines()
    some = lines[:: max(1, len(lines) // count)][:count]
    return [line[2:] for line in some], np.array([line[0] == "1" for line in some])


def transfer() -> list[dict[str, Any]]:
    """Vectors carried from one seed to another."""
    names = ("seeds/gpt2-s21", "seeds/gpt2-s49", "seeds/gpt2-s81")
    models = {name: itda.load_model(model_folder(name)) for name in names}
    corpus = itda.Corpus.from_files(DATA / "text" / "wikitext_1000.json")
    text = neutral("tinystories_1000.json", 8)
    rows = []
    for first, second in ((names[0], names[1]), (names[1], names[2]), (names[2], names[0])):
        here, there = models[first], models[second]
        site = here.middle_site
        dictionary = itda.build(here, corpus, site=site, atoms=1024, tokens=60_000, progress=False)
        carried = compare.transplant(dictionary, there, corpus, site, progress=False)
        for make in SETS.values():
            sides = make()
            test = sides.contrasts
            pairs = [(sides.prompt + one, sides.prompt + other) for one, other in sides.pairs(0, 40)]
            own = steer.SteeringVector.fit(here, pairs, [site], read="tokens", progress=False)
            native = steer.SteeringVector.fit(there, pairs, [site], read="tokens", progress=False)
            norm = native.norms[site]
            drawn = torch.randn(there.width, generator=torch.Generator().manual_seed(0))
            vectors = {
                "native": native, "carried": own.transfer(dictionary, carried),
                "as it is": direct(there, own.directions[site], norm),
                "random": direct(there, drawn / drawn.norm(), norm),
            }  # fmt: skip
            plain, place = steer.contrast(there, test), steer.NeutralText(there, text)
            risen = {}
            for name, vector in vectors.items():
                found = steer.calibrate(there, vector, place, KL)
                with vector.apply(there, found.strength):
                    risen[name] = steer.contrast(there, test) - plain
            ends = ends_of(risen["carried"])
            means = {name: float(value.mean()) for name, value in risen.items()}
            rows.append({
                "from": first, "to": second, "set": sides.name, **means,
                "95 % of carried": f"{ends[0]:+.2f} to {ends[1]:+.2f}", "keeps": means["carried"] / means["native"],
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def direct(model: Model, direction: torch.Tensor, norm: float) -> steer.SteeringVector:
    """A direction at the middle layer."""
    return steer.SteeringVector.from_direction(model, model.middle_site, direction, norm=norm)


PARTS = {"maps": maps, "controller": controller, "rules": rules, "acting": acting, "transfer": transfer}


if __name__ == "__main__":
    main()
