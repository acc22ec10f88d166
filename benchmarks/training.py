"""The loop that trains the small language models of the benchmarks."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def rows_of(tokenizer: Any, texts: list[str], length: int) -> Tensor:
    """Texts one after the other, cut into rows: int64 (n, length)."""
    ids = torch.cat([torch.tensor(tokenizer(text)["input_ids"]) for text in texts])
    return ids[: len(ids) // length * length].reshape(-1, length)


def train(
    model: Any,
    rows: Tensor,
    *,
    steps: int,
    batch: int,
    rate: float,
    warm: int,
    floor: float,
    decay: float,
    before: Callable[[int], None] = lambda step: None,
) -> float:
    """AdamW, a warm-up, then a cosine down to a share of the rate; rows are drawn by torch's own generator.

    Args:
        model: of transformers, on its device.
        rows: int64 (n, tokens).
        before: called before each step with its number.
    Returns: the loss of the last step, nats a token.
    """
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warm) * (floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2),
    )
    loss = torch.tensor(math.nan)
    for step in range(steps):
        before(step)
        drawn = rows[torch.randint(len(rows), (batch,))].to(model.device)
        loss = model(input_ids=drawn, labels=drawn).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return float(loss.detach())
