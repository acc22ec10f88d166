"""Train the small causal language model that ships inside the package.

GPT-2 architecture and a byte-level BPE tokenizer, trained on the embedded corpus. Writes
config.json, model.safetensors (float16), the tokenizer and a model card with the loss reached.

    python tools/train_embedded.py --out src/itda/models/embedded
"""

import argparse
import hashlib
import math
import platform
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from itda.data.embedded import embedded_documents

VOCABULARY = 2048
WINDOW = 256
SEED = 7
BEGIN = "<|endoftext|>"


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose token 0 begins every document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=BEGIN, pad_token=BEGIN, model_max_length=WINDOW
    )


def windows(documents: list[list[int]], rng: random.Random) -> torch.Tensor:
    """Pack documents into windows (B, WINDOW + 1) that all begin with the begin token."""
    rows: list[list[int]] = [[0]]
    for document in rng.sample(documents, len(documents)):
        rest = document[1:]
        # A random first cut, so that over the epochs every position of a document meets every context length.
        room = rng.randrange(WINDOW // 2, WINDOW)
        while rest:
            if len(rows[-1]) > 1:
                rows[-1].append(0)
            space = min(room, WINDOW + 1 - len(rows[-1]))
            rows[-1] += rest[:space]
            rest = rest[space:]
            if len(rows[-1]) >= WINDOW:
                rows[-1] = rows[-1][: WINDOW + 1]
                rows.append([0])
            room = WINDOW
    full = [row for row in rows if len(row) == WINDOW + 1]
    return torch.tensor(full)


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, documents: list[list[int]]) -> tuple[float, int]:
    """Mean next-token loss in nats over the first window of every document, and the token count."""
    model.eval()
    total, tokens = 0.0, 0
    for document in documents:
        ids = torch.tensor([document[:WINDOW]])
        count = ids.shape[1] - 1
        total += model(ids, labels=ids).loss.item() * count
        tokens += count
    model.train()
    return total / tokens, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)

    texts = list(embedded_documents())
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    held = set(rng.sample(range(len(texts)), len(texts) // 20))
    train_texts = [text for index, text in enumerate(texts) if index not in held]
    tokenizer = train_tokenizer(train_texts)
    train = [tokenizer(text)["input_ids"] for text in train_texts]
    test = [tokenizer(texts[index])["input_ids"] for index in sorted(held)]

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=WINDOW, n_embd=128, n_layer=6, n_head=4,
        bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    parameters = sum(p.numel() for p in model.parameters())
    decay = [p for p in model.parameters() if p.dim() > 1]
    other = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 100) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / options.steps)) / 2),
    )
    queue: list[torch.Tensor] = []
    seen, started = 0, time.monotonic()
    for step in range(options.steps):
        if len(queue) < options.batch:
            queue += list(windows(train, rng))
        batch = torch.stack([queue.pop() for _ in range(options.batch)])
        logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen += batch[:, 1:].numel()
        if step % 100 == 0:
            held_out, _ = held_out_loss(model, test[::4])
            print(
                f"step {step} loss {loss.item():.3f} held out {held_out:.3f} seconds {time.monotonic() - started:.0f}",
                flush=True,
            )
    model = model.to(torch.float16).float()  # the loss in the card is that of the shipped half-precision weights
    loss_reached, tokens = held_out_loss(model, test)
    for rate in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(model.config, rate, 0.0)
    options.out.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    card = f"""# The embedded language model

A GPT-2 of {parameters:,} parameters (6 layers, width 128, 4 heads, {WINDOW} positions, tied embeddings) with a
byte-level BPE tokenizer of {VOCABULARY} tokens; token 0 begins every document. It exists so that every command
works with no network. It knows the wording of Python's own documentation and nothing else.

- Text: `pydoc_data.topics` and the docstrings of the standard library of Python {platform.python_version()}
  ({len(texts):,} documents, sha256 {digest[:16]}), one document in twenty held out
- Training: {options.steps} steps of AdamW, {seen:,} tokens, seed {SEED}, on the CPU
- Loss on held-out documents (their first {WINDOW} tokens, {tokens:,} predictions): {loss_reached:.3f} nats per token
- Weights: float16 safetensors, CC0

Made by `tools/train_embedded.py`.
"""
    (options.out / "README.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
