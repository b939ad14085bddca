"""Checkpoints of a run: all that a step changes, by Orbax; never the frozen weights."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import struct

from gfn_jax.errors import UserError
from gfn_jax.runtime.train_step import TrainState
from gfn_jax.types import Trajectories


@struct.dataclass
class Snapshot:
    """The state after a step, and the trajectories that were drawn for later ones by then."""

    state: TrainState
    waiting: tuple[Trajectories, ...]


class Checkpoints:
    """The last checkpoints under a directory; saving goes on in the background."""

    def __init__(self, directory: Path, keep: int = 2):
        self._directory = directory
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def restore_latest(self, like: Snapshot) -> Snapshot | None:
        """The latest snapshot, shaped and placed as `like`, or None where nothing was saved yet."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            restored: Any = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError) as error:
            raise UserError(
                f"the checkpoint {self._directory / str(step)} does not fit this model and optimiser: {error}"
            ) from error
        return restored

    def save(self, snapshot: Snapshot) -> None:
        self._manager.save(int(snapshot.state.step), args=ocp.args.StandardSave(snapshot))

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
