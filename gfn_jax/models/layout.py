"""Where, over devices, a model's values lie while it computes."""

import dataclasses
from collections.abc import Callable

import jax

AxisNames = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """By default wherever the compiler puts them.

    spread  what is kept of every position, [.., D], between the parts of a layer
    whole   a weight, whose axes have these names, as the computation needs it; None where it is whole as it is
    shards  how many devices a batch's prompts are split over, where they are computed together
    split_axes  names of the axes of weights that are in parts on several devices
    has_few_kernels  whether decoding is told in few large operations, as accelerators like it, or in those with the
            fewest FLOPs
    rounds_adapter  whether decoding adds an adapter to frozen weights that are narrower, too, which rounds it off
    multiple_of_samples  of how many samples of a prompt, or a multiple, a decoded position's product with keys is: a
            GPU's library takes products of bfloat16 in eights, or fills them up itself, in one kernel more
    """

    spread: Callable[[jax.Array], jax.Array] = lambda x: x
    whole: Callable[[AxisNames, jax.Array], jax.Array] | None = None
    shards: int = 1
    split_axes: frozenset[str] = frozenset()
    has_few_kernels: bool = False
    rounds_adapter: bool = False
    multiple_of_samples: int = 1


WHEREVER = Layout()
