"""Where no extra is installed, what needs one says which; run it with the Python of such an environment.

python tests/support/without_extras.py
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import itda
from itda.errors import MissingExtraError


def main() -> int:
    """How many features do not say it."""
    rows = torch.randn(64, 8)
    dictionary = itda.build_from_activations(rows, atoms=16, steps=2, progress=False)
    model = itda.load_model()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for extra, feature in features(dictionary, model, Path(folder)):
            try:
                feature()
            except MissingExtraError as error:
                said = error.extra
            except Exception as error:  # what it must not be
                said = f"{type(error).__name__}: {error}"
            else:
                said = "nothing: it worked"
            failed += said != extra
            print(f"{'ok  ' if said == extra else 'FAIL'} {extra}: {said}")
    return failed


def features(dictionary: itda.Dictionary, model: object, folder: Path) -> list[tuple[str, Callable[[], object]]]:
    """Each extra with something that needs it."""
    from itda import scale
    from itda.adapters import gguf, nnsight, saelens, tensorboard, wandb
    from itda.cli import view
    from itda.view import figures

    for name in ("a.parquet", "b.jsonl.zst"):
        (folder / name).write_bytes(b"x")
    text = itda.Corpus.from_texts(["some text", "and some more"])
    return [
        ("data", lambda: itda.Corpus.from_dataset("user/name")),
        ("data", lambda: itda.Corpus.from_files(folder / "a.parquet").ids),
        ("data", lambda: itda.Corpus.from_files(folder / "b.jsonl.zst").ids),
        ("plots", lambda: figures.check(folder / "a.svg")),
        ("view", lambda: view.view(None, [folder])),
        ("scale", lambda: scale.build("embedded", text, folder=folder / "parts", shards=2, atoms=4, progress=False)),
        ("remote", lambda: nnsight.load("gpt2")),
        ("gguf", lambda: gguf.write(folder / "v.gguf", "gpt2", {1: np.ones(4, np.float32)})),
        ("logs", lambda: tensorboard.Log(folder / "log")),
        ("logs", lambda: wandb.Log("project")),
        ("quantized", lambda: itda.load_model(dtype="8bit")),
        ("peers", saelens.register),
    ]


if __name__ == "__main__":
    sys.exit(main())
