"""Do our measures of similarity give what published implementations give? On real activations of two seeds.

python benchmarks/bench_measures.py

Needs the extra `peers`, and `pip install --no-deps cka-pytorch`, of which one file is used (all of it wants lightning).
"""

import argparse
import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common import DATA, model_folder, report
from torch import Tensor

import itda
from itda import compare

TOKENS, SITE = 1000, "resid_post.3"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    corpus = itda.Corpus.from_files(DATA / "text" / "wikitext_1000.json")
    first, second = (
        itda.capture(
            itda.load_model(model_folder(f"seeds/{name}")), corpus, SITE, tokens=TOKENS, progress=False
        ).rows.double()
        for name in ("gpt2-s21", "gpt2-s49")
    )
    rows: list[dict[str, Any]] = []
    for measure, (package, theirs) in PEERS.items():
        own, other = compare.similarity(first, second, measure), theirs(first, second)
        rows.append(
            {"measure": measure, "ours": own, "theirs": other, "difference": f"{abs(own - other):.1e}",
             "package": f"{package} {version(package)}"}
        )  # fmt: skip
    report("measures", rows, tokens=TOKENS, site=SITE)


def debiased_cka(first: Tensor, second: Tensor) -> float:
    """From the Gram matrices, by cka-pytorch's estimate of HSIC."""
    package = importlib.util.find_spec("cka_pytorch")
    assert package is not None
    assert package.origin is not None
    spec = importlib.util.spec_from_file_location("hsic", Path(package.origin).parent / "hsic.py")
    assert spec is not None
    assert spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    grams = [(rows @ rows.T)[None] for rows in (first, second)]
    own = [peer.hsic1(gram, gram) for gram in grams]
    return float(peer.hsic1(*grams) / (own[0] * own[1]).sqrt())


def mean_cca(first: Tensor, second: Tensor) -> float:
    from cca_zoo.linear import CCA

    views = [rows.numpy() for rows in (first, second)]
    return float(CCA(n_components=min(first.shape[1], second.shape[1])).fit(views).score(views))


def rsa(first: Tensor, second: Tensor) -> float:
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm
    from rsatoolbox.rdm import compare as between

    tables = [calc_rdm(Dataset(rows.numpy()), method="euclidean") for rows in (first, second)]
    return float(between(*tables, method="spearman").item())


PEERS: dict[str, tuple[str, Callable[[Tensor, Tensor], float]]] = {
    "cka_debiased": ("cka-pytorch", debiased_cka),
    "cca": ("cca-zoo", mean_cca),
    "rsa": ("rsatoolbox", rsa),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
