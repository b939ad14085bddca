"""The rows of a batch on the mesh: every process has a share of them, in the order of the processes."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

T = TypeVar("T")

BATCH_AXES = ("process", "data")
"""The mesh axes that a batch's leading axis, prompts or their trajectories, is split over."""


class Rows:
    """How a batch's leading axis lies on the mesh, and the way to this process's share of it and back.

    A share is a stretch of neighbouring rows; with one process it is the whole batch.

    sharding    of a batch
    local_mesh  this process's devices
    """

    def __init__(self, mesh: Mesh):
        self.sharding = NamedSharding(mesh, P(BATCH_AXES))
        self._shares = mesh.shape["process"]
        self._index = jax.process_index() if self._shares > 1 else 0
        own = mesh.devices[self._index : self._index + 1]
        self.local_mesh = Mesh(own, mesh.axis_names, axis_types=mesh.axis_types)

    @property
    def is_whole(self) -> bool:
        """Whether this process's share is the whole batch."""
        return self._shares == 1

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of a batch's items, of which the processes hold equally many."""
        return items[self._own(len(items))]

    def numbers(self, count: int) -> range:
        """The places in a batch of `count` rows that are this process's."""
        return range(*self._own(count).indices(count))

    def place(self, own: Any) -> Any:
        """Host arrays of this process's rows as arrays of the whole batch, on the mesh."""
        if self.is_whole:
            return jax.device_put(own, self.sharding)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.sharding, np.asarray(x)), own)

    def fetch(self, batch: Any) -> Any:
        """This process's rows of arrays of the whole batch, as host arrays."""
        if self.is_whole:
            return jax.device_get(batch)
        return jax.tree.map(self._fetch, batch)

    def local(self) -> NamedSharding:
        """How a batch of this process's own, that the others have no part in, lies on its devices."""
        return NamedSharding(self.local_mesh, self.sharding.spec)

    def on_this_process(self, weights: Any) -> Any:
        """Weights, of which every process holds a copy, as arrays of this process's devices alone; copies nothing."""
        if self.is_whole:
            return weights

        def view(x: jax.Array) -> jax.Array:
            assert isinstance(x.sharding, NamedSharding)
            sharding = NamedSharding(self.local_mesh, x.sharding.spec)
            return jax.make_array_from_single_device_arrays(
                x.shape, sharding, [shard.data for shard in x.addressable_shards]
            )

        return jax.tree.map(view, weights)

    def _own(self, count: int) -> slice:
        each, rest = divmod(count, self._shares)
        if rest:
            raise ValueError(f"{count} rows cannot be shared equally by {self._shares} processes")
        return slice(self._index * each, (self._index + 1) * each)

    def _fetch(self, array: jax.Array) -> np.ndarray:
        parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
        rows = np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
        return rows[self._own(len(rows))] if len(rows) == array.shape[0] else rows
