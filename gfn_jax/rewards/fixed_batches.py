"""Batches of fixed shapes, so that what a model makes of a row depends on nothing else in its batch."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Or PyTorch's products by MKL sum a row in an order that may depend on its place. Read at the first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

SHORTEST_BUCKET = 16


class FixedBatch(NamedTuple):
    """Rows of one batch: the `real` ones, by their index, padded to `length` tokens each.

    `filled` is `real` with its last row repeated, so that every batch has as many.
    """

    length: int
    real: list[int]
    filled: list[int]


def fixed_batches(lengths: Sequence[int], batch_size: int, max_length: int) -> Iterator[FixedBatch]:
    """All rows, of these many tokens, in batches of one length: a power of two, or `max_length`."""
    buckets: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        bucket = min(max(SHORTEST_BUCKET, 1 << (length - 1).bit_length()), max_length)
        buckets.setdefault(bucket, []).append(index)
    for length, members in sorted(buckets.items()):
        for first in range(0, len(members), batch_size):
            real = members[first : first + batch_size]
            yield FixedBatch(length, real, real + real[-1:] * (batch_size - len(real)))
