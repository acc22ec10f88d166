"""The table of bench_fidelity on a language model of 50 to 100 M parameters, trained here on the text at hand.

python benchmarks/bench_fidelity_gpu.py [--minutes 12] [--width 640] [--layers 12]

For a GPU; half an hour in all. Without one it runs with small numbers only, to see that it does. Autoencoders are
trained where sae-lens is installed, on the same device; otherwise their rows are missing, and the output says so.
"""

import argparse
import importlib.util
import math
import time
from pathlib import Path
from typing import Any

import saes
import torch
import transformers
from bench_fidelity import COSINE_GAPS, pursuit_on
from cells import Cell
from common import DATA, report
from scoring import HeldOut, of_dictionary
from tokenizers import ByteLevelBPETokenizer

import itda

VOCABULARY, WINDOW, BATCH = 8192, 256, 64
METHODS = ("greedy", "budget", "mixture", "learned", "random", "kmeans")
SHARES = (0.015, 0.03, 0.06, 0.12)
TOKENS, HELD_OUT_TOKENS = 400_000, 20_000
SAE_PASSES, SAE_RATES = (40, 160), (1e-3, 3e-3, 1e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train_text, held_out = texts().split(held_out=0.05, seed=0)
    tokenizer = tokens_of(train_text)
    module, loss = trained(tokenizer, train_text, asked.width, asked.layers, 60 * asked.minutes, device)
    model = itda.wrap(module, tokenizer)
    site = model.middle_site
    activations = itda.capture(model, train_text, site, tokens=asked.tokens)
    rows: list[Cell] = []
    place: HeldOut | None = None
    for share in SHARES:
        steps, atoms = max(1, round(share * asked.width)), 8 * asked.width
        papers = [(f"paper, gap {gap}", {"method": "paper", "max_cosine_gap": gap}) for gap in COSINE_GAPS]
        ways: list[tuple[str, dict[str, Any]]] = [*((method, {"method": method}) for method in METHODS), *papers]
        for name, options in ways:
            begin = time.perf_counter()
            dictionary = itda.build_from_activations(activations, atoms=atoms, steps=steps, progress=False, **options)
            seconds = time.perf_counter() - begin
            if place is None:
                assert dictionary.provenance is not None
                assert dictionary.token_means is not None
                capture = dictionary.provenance.capture
                place = HeldOut(model, held_out, site, capture, dictionary.token_means, HELD_OUT_TOKENS)
            rows.append(row(share, steps, name, seconds, place.scores(of_dictionary(dictionary))))
        assert place is not None
        if importlib.util.find_spec("sae_lens"):
            rows += autoencoders(activations.rows, atoms, steps, share, place, device)
        print(f"{steps} steps", flush=True)
    if not importlib.util.find_spec("sae_lens"):
        print("sae-lens is not installed: no autoencoder was trained")
    parameters = sum(parameter.numel() for parameter in module.parameters())
    name = torch.cuda.get_device_name() if device == "cuda" else device
    report(
        "fidelity_gpu", rows, device=name, parameters=parameters, width=asked.width, layers=asked.layers,
        training_minutes=asked.minutes, loss_after_training=loss, tokens=len(activations),
        held_out_tokens=HELD_OUT_TOKENS,
    )  # fmt: skip


def row(share: float, steps: int, method: str, seconds: float, scores: dict[str, float]) -> Cell:
    """One line of the table."""
    return {"K/D": share, "steps": steps, "method": method, **scores, "seconds": round(seconds, 1)}


def texts() -> itda.Corpus:
    """All text there is, in documents of a page or so."""
    found: list[str] = []
    for path in sorted((DATA / "text").iterdir()):
        if path.suffix in (".txt", ".json"):
            split_on = {"wikitext2_valid.txt": "\n = "}.get(path.name, "\n\n") if path.suffix == ".txt" else None
            parts = [document.text for document in itda.Corpus.from_files(path, split_on=split_on)]
            found += ["\n\n".join(parts[start : start + 8]) for start in range(0, len(parts), 8)] if split_on else parts
    return itda.Corpus.from_texts(list(dict.fromkeys(found)))


def tokens_of(text: itda.Corpus) -> Any:
    """A byte-level tokenizer trained on the text."""
    core = ByteLevelBPETokenizer()
    core.train_from_iterator(
        (document.text for document in text), VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False
    )
    folder = Path("build") / "bench_fidelity_gpu"
    folder.mkdir(parents=True, exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    end = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **end)


def trained(
    tokenizer: Any, text: itda.Corpus, width: int, layers: int, seconds: float, device: str
) -> tuple[Any, float]:
    """A GPT-2 trained for some seconds, and its last losses' mean."""
    torch.manual_seed(0)
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
    return module.eval(), last


def autoencoders(rows: torch.Tensor, atoms: int, steps: int, share: float, place: HeldOut, device: str) -> list[Cell]:
    """TopK and BatchTopK at the best of some rates, with few passes and with many; and a pursuit on their decoder."""
    found = []
    for passes in SAE_PASSES:
        for kind in ("topk", "batchtopk"):
            best: tuple[dict[str, float], saes.TrainedSae] | None = None
            for rate in SAE_RATES:
                made = saes.train(rows, atoms, steps, kind=kind, rate=rate, passes=passes, seed=0, device=device)
                scores = place.scores(made.rebuild)
                if best is None or scores["fvu"] < best[0]["fvu"]:
                    best = scores, made
            assert best is not None
            found.append(row(share, steps, f"{kind}, {passes} passes", best[1].seconds, best[0]))
            if kind == "topk":
                scores = place.scores(pursuit_on(best[1], steps))
                found.append(row(share, steps, f"pursuit on topk, {passes} passes", best[1].seconds, scores))
    return found


if __name__ == "__main__":
    main()
