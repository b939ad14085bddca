"""Training a classifier of the miniature's."""

from collections.abc import Callable, Sequence

import torch
from rich.progress import track
from transformers import PreTrainedTokenizerFast

SMOOTHING = 0.03  # of labels: the least probability of each is this share, divided by their number
Batch = tuple[Sequence[Sequence[str]], Sequence[int]]
"""Texts, or the first and the second texts of pairs; and a label for each."""


def fit(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    draw: Callable[[], Batch],
    steps: int,
    learning_rate: float,
    name: str,
) -> torch.nn.Module:
    """Trains on `steps` fresh batches, and says now and then how it goes."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    for step in track(range(1, steps + 1), name):
        texts, labels = draw()
        logits = model(**tokenizer(*map(list, texts), padding=True, return_tensors="pt")).logits
        # Smoothed, so that the classifier is no surer of itself than those of real size are.
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 500 == 0:
            print(f"{name}, step {step} of {steps}: loss {loss.item():.4f}", flush=True)
    return model.eval()
