"""The probes' texts as the page shows them: each once, with its tokens' shares of its imbalance."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gfn_jax.reporting.balance import Cloud, Row
from gfn_jax.reporting.imbalance import imbalance, token_shares

_SCALE_QUANTILE = 0.95


class Token(NamedTuple):
    """`share` is None where it is not known."""

    text: str
    share: float | None


class Text(NamedTuple):
    """A text that was sampled `count` times."""

    tokens: Sequence[Token]
    count: int
    imbalance: float
    sample: Row


def distinct_texts(cloud: Cloud) -> list[Text]:
    """A prompt's samples without repetition, the most frequent first, and of equally frequent ones the likeliest."""
    counts = Counter(row["continuation"] for row in cloud.samples)
    first: dict[str, Row] = {}
    for row in cloud.samples:
        first.setdefault(row["continuation"], row)
    found = [_text(row, counts[name], cloud.log_z) for name, row in first.items()]
    return sorted(found, key=lambda text: (-text.count, -text.sample["log_pf"]))


def _text(row: Row, count: int, log_z: float) -> Text:
    tokens, log_ratio = row.get("tokens"), row.get("log_ratio")
    if tokens and log_ratio and len(tokens) == len(log_ratio):
        shown = [Token(token, share) for token, share in zip(tokens, token_shares(log_ratio, log_z), strict=True)]
    else:
        shown = [Token(row["continuation"], None)]
    return Text(shown, count, imbalance(row["log_r"] - row["log_pf"], log_z), row)


def scale(texts: Sequence[Text]) -> float | None:
    """The share that has the full colour: few are larger. None where no shares are known."""
    shares: list[Any] = [token.share for text in texts for token in text.tokens if token.share is not None]
    return max(0.1, float(np.quantile(np.abs(shares), _SCALE_QUANTILE))) if shares else None
