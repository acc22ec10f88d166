"""The table of bench_fidelity on a language model of 50 to 100 M parameters, trained here on the text at hand.

python benchmarks/bench_fidelity_gpu.py [--minutes 1] [--width 512] [--layers 16] [--only builders]

For a GPU; half an hour in all. The trained model and every measurement are kept, so a run that was stopped goes on.
Autoencoders are trained where sae-lens is installed; otherwise their rows are missing, and the output says so.
"""

import argparse
import hashlib
import importlib.util
import math
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from bench_fidelity import builders, finished, summary
from cases import HELD_OUT_TOKENS, TOKENS, Case
from cells import Cells
from common import DATA, report
from fidelity_saes import AUTOENCODERS, BY_WORTH, SWEPT_AT, autoencoders
from tokenizers import ByteLevelBPETokenizer

import itda

VOCABULARY, WINDOW, BATCH = 8192, 256, 64
FOLDER = Path("build") / "bench_fidelity_gpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1, help="of training")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--shares", type=float, nargs="+", default=BY_WORTH, help="K/D, in the order to measure them")
    parser.add_argument("--only", choices=("model", "builders", "autoencoders", "table"))
    asked = parser.parse_args()
    folder = FOLDER / f"{asked.width}-{asked.layers}-{asked.minutes:g}"
    cells, models = Cells("fidelity_gpu"), Cells("fidelity_gpu_models")
    if asked.only != "table":
        text = texts()
        if not (folder / "config.json").exists():
            # What the dictionaries are measured on, no word of the training text
            trained = train(text.split(held_out=0.1, seed=0)[0], folder, asked.width, asked.layers, 60 * asked.minutes)
            models.add(model=name_of(folder), width=asked.width, layers=asked.layers, **trained)
        if asked.only != "model":
            measure(Case(name_of(folder), 0, folder, text), tuple(asked.shares), asked.only, cells)
    known = finished(cells.all)
    if known:
        facts = next(model for model in reversed(models.all) if model["model"] == known[-1]["model"])
        report("fidelity_gpu", summary(known), **facts, tokens=TOKENS, held_out_tokens=HELD_OUT_TOKENS)


def name_of(folder: Path) -> str:
    """Of a trained model: trained again, it is another one."""
    return f"{folder.name}-{hashlib.blake2b((folder / 'model.safetensors').read_bytes(), digest_size=3).hexdigest()}"


def measure(case: Case, shares: tuple[float, ...], only: str | None, cells: Cells) -> None:
    """Measure what is missing."""
    trains = only != "builders" and importlib.util.find_spec("sae_lens") is not None
    if only != "builders" and not trains:
        print("sae-lens is not installed: no autoencoder was trained")
    for share in shares:
        if only != "autoencoders":
            builders(case, cells, (share,))
        if trains:
            kinds = AUTOENCODERS if share == SWEPT_AT else AUTOENCODERS[:1]
            autoencoders(case, share, kinds, cells, Cells("fidelity_gpu_training"))


def texts() -> itda.Corpus:
    """All text there is, in documents of a page or so."""
    found: list[str] = []
    for path in sorted((DATA / "text").iterdir()):
        if path.suffix in (".txt", ".json"):
            split_on = {"wikitext2_valid.txt": "\n = "}.get(path.name, "\n\n") if path.suffix == ".txt" else None
            parts = [document.text for document in itda.Corpus.from_files(path, split_on=split_on)]
            found += ["\n\n".join(parts[start : start + 8]) for start in range(0, len(parts), 8)] if split_on else parts
    return itda.Corpus.from_texts(list(dict.fromkeys(found)))


def tokens_of(text: itda.Corpus, folder: Path) -> Any:
    """A byte-level tokenizer trained on the text."""
    core = ByteLevelBPETokenizer()
    core.train_from_iterator(
        (document.text for document in text), VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False
    )
    folder.mkdir(parents=True, exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    end = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **end)


def train(text: itda.Corpus, folder: Path, width: int, layers: int, seconds: float) -> dict[str, Any]:
    """Train a GPT-2 for some seconds, and keep it in a folder.

    Returns: what it took, and came to.
    """
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = tokens_of(text, folder)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=width, n_layer=layers, n_head=max(1, width // 64), n_positions=WINDOW,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    module = transformers.GPT2LMHeadModel(config).to(device)
    ids = [token for document in text for token in [*tokenizer(document.text)["input_ids"], 0]]
    stream = torch.tensor(ids, device=device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=6e-4, weight_decay=0.1, betas=(0.9, 0.95))
    begin, losses = time.perf_counter(), []
    while (spent := time.perf_counter() - begin) < seconds or not losses:
        for group in optimizer.param_groups:
            warm = min(1.0, (len(losses) + 1) / 200)
            group["lr"] = 6e-4 * warm * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, spent / seconds))))
        starts = torch.randint(len(stream) - WINDOW, (BATCH,), device=device)
        batch = stream[starts[:, None] + torch.arange(WINDOW, device=device)]
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = module(input_ids=batch, labels=batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    last = float(torch.stack(losses[-20:]).mean())
    print(f"{len(losses):,} steps of {BATCH * WINDOW:,} tokens, loss {last:.3f}", flush=True)
    tokenizer.save_pretrained(folder)
    module.float().save_pretrained(folder)
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "training_seconds": seconds,
        "training_tokens": len(losses) * BATCH * WINDOW,
        "training_text_tokens": len(stream),
        "training_loss": last,
    }


if __name__ == "__main__":
    main()
