"""More seeds of the small GPT-2 that layers are matched on, and checkpoints on the way.

python benchmarks/train_seeds.py 1 2 3 [--layers 6 --width 128 --steps 700] [--checkpoints 0 30 150 300 500]

Trained as the shared ones were: one tokenizer, all texts of the data folder, 32 rows of 128 tokens a step; only the
seed of the weights and of the batches differs. About half an hour each on two cores, a minute on a GPU. Then:
python benchmarks/bench_layer_matching.py --models benchmarks/trained/seeds/gpt2-s*
"""

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from common import DATA, model_folder
from training import rows_of, train

import itda

TRAINED = Path(__file__).parent / "trained" / "seeds"
LIKE = "seeds/gpt2-s21"
TEXTS = {
    "wikitext_1000.json": None,
    "wikitext2_valid.txt": "\n = ",
    "tinystories_1000.json": None,
    "war_and_peace.txt": "\nCHAPTER ",
    "grimms_fairy_tales.txt": "\n\n\n",
    "tinyshakespeare.txt": None,
}
BATCH, LENGTH, RATE, WARM, FLOOR, DECAY = 32, 128, 2e-3, 60, 0.05, 0.1
HELD_OUT = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--checkpoints", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=TRAINED)
    asked = parser.parse_args()

    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder(LIKE))
    train_texts, held_out = documents()
    start = tokenizer.convert_ids_to_tokens(0)  # begins every document
    rows, unseen = (rows_of(tokenizer, [start + text for text in texts], LENGTH) for texts in (train_texts, held_out))
    config = AutoConfig.from_pretrained(model_folder(LIKE), n_layer=asked.layers, n_embd=asked.width)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for seed in asked.seeds:
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).to(device)

        def save(name: str, model: Any = model) -> None:
            model.save_pretrained(asked.out / name)
            tokenizer.save_pretrained(asked.out / name)

        def keep(step: int, seed: int = seed, save: Any = save) -> None:
            if step in asked.checkpoints:
                save(f"gpt2-s{seed}-step{step}")

        train(model, rows, steps=asked.steps, batch=BATCH, rate=RATE, warm=WARM, floor=FLOOR, decay=DECAY, before=keep)
        save(f"gpt2-s{seed}")
        print(f"gpt2-s{seed}: held-out loss {loss_of(model, unseen):.3f} nats a token", flush=True)


def documents() -> tuple[list[str], list[str]]:
    """To train on, and held out."""
    texts = [
        document.text
        for file, split_on in TEXTS.items()
        for document in itda.Corpus.from_files(DATA / "text" / file, split_on=split_on)
    ]
    random.Random(0).shuffle(texts)
    return texts[HELD_OUT:], texts[:HELD_OUT]


@torch.no_grad()
def loss_of(model: Any, rows: torch.Tensor) -> float:
    losses = [model(input_ids=part, labels=part).loss for part in rows.to(model.device).split(BATCH)]
    return float(torch.stack(losses).mean())


if __name__ == "__main__":
    main()
