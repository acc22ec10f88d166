"""Steering beside its peers: the same vectors, the same logits, and what it costs to generate with one.

python benchmarks/bench_steering_peers.py

Vectors are fitted to forty pairs of happy and sad situations at every layer but the last, ours and the peers' own. The
peers ask for older versions of numpy and transformers than they need; install them beside ours without their
dependencies: pip install --no-deps repeng steering-vectors
"""

import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from common import DATA, model_folder, report

import itda
from itda import steer
from itda.models.loading import Model

MODELS = ("gpt2-wide", "seeds/gpt2-s21")
PAIRS, RUNS, BATCH, NEW_TOKENS = 40, 8, 8, 128
np.float_ = np.float64  # type: ignore[attr-defined]  # a name of numpy 1 that repeng uses in its annotations


def main() -> None:
    folder = DATA / "labelled" / "emotions"
    sides = [json.loads((folder / f"{name}.json").read_text())[:PAIRS] for name in ("happiness", "sadness")]
    pairs = list(zip(*sides, strict=True))
    rows, costs = [], []
    for name in MODELS:
        model = itda.load_model(model_folder(name))
        layers = list(range(1, len({site.name.rpartition(".")[2] for site in model.sites()}) - 1))
        sites = [f"resid_post.{layer}" for layer in layers]
        for peer, method, theirs in peers(model, pairs, layers):
            ours = steer.SteeringVector.fit(model, pairs, sites, method=method, progress=False)  # type: ignore[arg-type]
            cosines = [
                float(torch.nn.functional.cosine_similarity(ours.directions[site], theirs[layer], dim=0))
                for site, layer in zip(sites, layers, strict=True)
            ]
            rows.append(
                {"model": name, "peer": peer, "ours": method, "layers": len(layers), "least cosine": min(cosines)}
            )
        costs.append({"model": name, **overhead(model), "logits, ours and repeng's": logits_apart(model)})
    report("steering_peers", rows, pairs=PAIRS)
    report("steering_cost", costs, batch=BATCH, new_tokens=NEW_TOKENS, runs=RUNS)


def peers(model: Model, pairs: list[Any], layers: list[int]) -> Iterator[tuple[str, str, dict[int, torch.Tensor]]]:
    """Peer and its method, the name of ours, and the directions it finds by layer."""
    from repeng.extract import DatasetEntry, read_representations
    from steering_vectors import train_steering_vector
    from steering_vectors.aggregators import logistic_aggregator, mean_aggregator, pca_aggregator

    entries = [DatasetEntry(positive=first, negative=second) for first, second in pairs]
    for theirs, ours in (("pca_diff", "pca_centred"), ("pca_center", "pca")):
        found = read_representations(model.module, model.tokenizer, entries, hidden_layers=layers, method=theirs)
        yield f"repeng {theirs}", ours, {layer: torch.from_numpy(one).float() for layer, one in found.items()}
    for aggregator, name in ((mean_aggregator, "mean"), (pca_aggregator, "pca"), (logistic_aggregator, "logistic")):
        vector = train_steering_vector(
            model.module, model.tokenizer, pairs, layers=layers, aggregator=aggregator(), batch_size=8
        )
        yield f"steering-vectors {name}", name, {layer: one.float() for layer, one in vector.layer_activations.items()}


def logits_apart(model: Model) -> float:
    """The largest difference of logits with the same vector added by repeng and by us."""
    from repeng.control import ControlModel
    from repeng.extract import ControlVector

    width, layer = model.width, 2
    direction = torch.randn(width, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(5, model.vocabulary, (1, 48), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    vector = steer.SteeringVector.from_direction(model, f"resid_post.{layer}", direction, norm=1.0)
    with torch.no_grad():
        with vector.apply(model, 0.5):
            ours = model.module(**inputs).logits
        wrapped = ControlModel(model.module, [layer])
        try:
            wrapped.set_control(ControlVector(model_type="gpt2", directions={layer: direction.numpy()}), 0.5)
            theirs = wrapped(**inputs).logits
        finally:
            wrapped.unwrap()
    return float((ours - theirs).abs().max())


def overhead(model: Model) -> dict[str, float]:
    """Processor time of generating with a vector at one site over that without, run by turns."""
    site = model.middle_site
    vector = steer.SteeringVector.from_direction(model, site, torch.ones(model.width), norm=0.1)
    ids = torch.randint(5, model.vocabulary, (BATCH, 16), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pad_token_id": 0, "do_sample": False}

    def generate() -> float:
        begin = time.process_time()
        model.module.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
        return time.process_time() - begin

    generate()
    ratios, plain = [], []
    for _ in range(RUNS):
        plain.append(generate())
        with vector.apply(model, 0.1):
            ratios.append(generate() / plain[-1])
    return {"plain, s": round(statistics.median(plain), 3), "steered / plain": round(statistics.median(ratios), 4)}


if __name__ == "__main__":
    main()
