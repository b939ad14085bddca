"""How figures are printed."""

import math
from collections.abc import Sequence


def decimals(values: Sequence[float]) -> int:
    """How many decimals numbers of one row have: three, of large ones fewer, of small ones enough for three digits."""
    smallest = min((abs(value) for value in values if value and math.isfinite(value)), default=1.0)
    if smallest >= 10:
        return 2 if smallest < 100 else 1
    return 3 if smallest >= 0.1 else min(2 - math.floor(math.log10(smallest)), 6)
