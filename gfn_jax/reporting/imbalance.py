"""Which tokens of a sample are to blame for its being sampled too often, or too rarely."""

from collections.abc import Sequence


def imbalance(log_ratio: float, log_z: float) -> float:
    """log π(y) - log R(y) + log Z: above 0 where a text is sampled too often, below where too rarely."""
    return log_z - log_ratio


def token_shares(log_ratio_T: Sequence[float | None], log_z: float) -> list[float]:
    """Each token's share of its sample's imbalance, the terminator's last; they sum to the imbalance.

    log_ratio_T  g at the states s_0 .. s_L, the last of which the sample stopped at; None where not terminable

    What changes in the imbalance from one terminable state to the next is spread evenly over the
    tokens between them; that of the first one over all tokens up to it, or, where there are none
    because the empty text is terminable, it is the terminator's.
    """
    shares = [0.0] * len(log_ratio_T)
    last_state, last = 0, 0.0
    for state, log_ratio in enumerate(log_ratio_T):
        if log_ratio is None:
            continue
        here = imbalance(log_ratio, log_z)
        tokens = range(last_state, state) or range(len(shares) - 1, len(shares))
        for token in tokens:
            shares[token] += (here - last) / len(tokens)
        last_state, last = state, here
    return shares
