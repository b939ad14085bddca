"""Checkpoints of a run: all that a step changes, by Orbax; of what no step changes, such as frozen weights, hashes."""

import contextlib
import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from gfn_jax.experiment.snapshot import Snapshot
from gfn_jax.experiment.train_step import TrainState
from gfn_jax.runtime import distributed
from gfn_jax.runtime.errors import TrainingError, UserError
from gfn_jax.types import Trajectories

FORMAT = 2
"""Version of what a checkpoint holds."""


def saved_steps(directory: Path) -> list[int]:
    """The steps that there are checkpoints of, damaged ones included."""
    return sorted(ocp.utils.checkpoint_steps(directory)) if directory.is_dir() else []


class Checkpoints:
    """The last checkpoints under a directory, and the best one; saving goes on in the background.

    All processes of a run call everything together, and see the same directory. Orbax writes a
    checkpoint under another name and renames it when it is whole, so a kill at any instant leaves the
    one before. Each carries a digest of its content, so that damage is seen.
    """

    def __init__(self, directory: Path, content: Mapping[str, str], *, keep: int = 0, keep_best: str = ""):
        """`keep` is for how many of the last ones there is room, 0 for reading alone.

        `content` is of `Experiment.content`: all of it for a run that goes on, what it needs of it for a reader.
        `keep_best` names the figure whose highest value is kept too, if any. Raises `UserError` where the figures of
        a checkpoint are damaged, and with them what is the best one: a reader passes over them.
        """
        self._directory, self._content, self._keep_best = directory, dict(content), keep_best
        self._goes_on = bool(keep)

        if keep:
            _check_figures(directory)

        def figure(figures: Mapping[str, float]) -> float:
            return figures.get(keep_best, -math.inf)

        policies: list[Any] = [LatestN(keep)]
        if keep_best:
            policies.append(BestN(get_metric_fn=figure, n=1, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            best_fn=figure,  # only with it are figures written down, and known after a restart
            create=bool(keep),
            lightweight_initialize=not keep,  # a reader asks for figures when it needs them
            cleanup_tmp_directories=bool(keep),
            preservation_policy=AnyPreservationPolicy(policies) if keep else None,
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits until everything is on disk; raises `TrainingError` where it cannot be, unless there is worse."""
        if error is not None and distributed.is_loss(error):
            return  # saving is done together, or not at all
        try:
            self._manager.wait_until_finished()
        except Exception as failure:
            if error is None and distributed.is_loss(failure):
                raise distributed.lost_process(failure, self.latest) from failure
            if error is None:
                raise TrainingError(f"{self._failure(failure)}; {self.latest}") from failure
        finally:
            self._manager.close()

    def restore_latest(self, like: Snapshot) -> tuple[Snapshot | None, dict[int, str]]:
        """The latest snapshot that can be read, shaped and placed as `like`; and what is wrong with later ones.

        None where nothing was saved yet. Raises `UserError` where the checkpoints depend on other
        content, or none can be read.
        """
        return self._restore_first(sorted(self._manager.all_steps(), reverse=True), "latest", like)

    def restore_best(self, like: Snapshot) -> tuple[Snapshot | None, dict[int, str]]:
        """The same, but of the highest figure that can be read; those without one come last, the latest first."""
        return self._restore_first(self._best_first(), "best", like)

    def restore_step(self, step: int, like: Snapshot) -> Snapshot:
        """The snapshot of this very step; raises `UserError` where it cannot be read."""
        snapshot, fault = self._try(step, like)
        if snapshot is None:
            raise UserError(f"{self._directory / str(step)} is damaged: {fault}")
        return snapshot

    def best(self) -> int:
        """The step of the checkpoint that `restore_best` tries first: of what is on disk, which must be something."""
        return self._best_first()[0]

    def _best_first(self) -> list[int]:
        return sorted(self._manager.all_steps(), key=lambda step: (self.figure(step), step), reverse=True)

    def figure(self, step: int) -> float:
        """The figure `keep_best` that was saved with a step; -inf where there is none."""
        try:
            return float((self._manager.metrics(step) or {}).get(self._keep_best, -math.inf))
        except (ValueError, TypeError, AttributeError):  # damaged
            return -math.inf

    def set_aside(self, step: int) -> Path:
        """Moves a checkpoint out of the way, with copies of the figures up to it; where to."""
        workdir = self._directory.parent
        names = itertools.chain(
            [f"checkpoint-{step}"], (f"checkpoint-{step}-{number}" for number in itertools.count(2))
        )
        place = next(place for name in names if not (place := workdir / "damaged" / name).exists())
        distributed.gather(None)  # all have found the same place, before it is taken
        if distributed.is_main():
            place.mkdir(parents=True)
            shutil.move(self._directory / str(step), place / "checkpoint")
            for file in workdir.glob("*.jsonl"):
                shutil.copy(file, place)
        distributed.gather(None)  # it is gone, before anyone looks again
        self._manager.reload()
        return place

    def finish(self) -> None:
        """Waits until everything is on disk; raises `TrainingError` where it cannot be."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            if distributed.is_loss(error):
                raise
            raise self._failure(error) from error

    def settle(self) -> None:
        """Waits for what is being saved, whatever becomes of it."""
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()

    def save(self, snapshot: Snapshot, figures: Mapping[str, float] | None = None) -> None:
        """Begins to save; `figures` are of a validation of this very state, if there was one."""
        waiting = distributed.fetch(snapshot.waiting)  # whole: then every process reads all that there is
        about = {
            "format": FORMAT,
            "content": self._content,
            "digest": _digest(snapshot.state, waiting, snapshot.replay),
            "seeds": snapshot.seeds,
        }
        finite = {name: value for name, value in (figures or {}).items() if math.isfinite(value)}
        try:
            self._manager.save(
                snapshot.step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave((snapshot.state, waiting)),
                    replay=ocp.args.StandardSave({"bytes": snapshot.replay}),
                    about=ocp.args.JsonSave(about),
                ),
                metrics=finite or None,
            )
        except Exception as error:
            if distributed.is_loss(error):
                raise
            raise self._failure(error) from error

    @property
    def latest(self) -> str:
        """Where the last whole checkpoint is, for a message."""
        step = self._manager.latest_step()
        return (
            "no checkpoint was saved yet" if step is None else f"the last checkpoint is {self._directory / str(step)}"
        )

    def _restore_first(
        self, steps: Sequence[int], first: str, like: Snapshot
    ) -> tuple[Snapshot | None, dict[int, str]]:
        """The first of these that can be read; of them the very first is called `first`."""
        faults: dict[int, str] = {}
        for step in distributed.of_main(steps):
            snapshot, fault = self._try(step, like)
            if fault is None:
                return snapshot, faults
            faults[step] = fault
        if faults:
            step, fault = next(iter(faults.items()))
            raise UserError(
                f"no checkpoint in {self._directory} can be read; {step}, the {first}, fails with {fault}. "
                "Choose another --workdir, or delete the checkpoints to begin again"
            )
        return None, faults

    def _try(self, step: int, like: Snapshot) -> tuple[Snapshot | None, str | None]:
        """The snapshot of a step, or what is wrong with it, in any process."""
        snapshot, fault = None, None
        try:
            snapshot = self._restore(step, like)
        except UserError:
            raise
        except Exception as error:  # a damaged file fails in as many ways as there are bytes
            cause = error.__cause__ or error  # Orbax adds to what a store says all that it knows of the array
            fault = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
        fault = distributed.of_any(fault)  # taken by all processes, or by none
        return (snapshot, None) if fault is None else (None, fault)

    def _restore(self, step: int, like: Snapshot) -> Snapshot:
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        where = self._directory / str(step)
        if about["format"] != FORMAT:
            raise UserError(f"{where} is of format {about['format']}, and this version reads {FORMAT}")
        then, now = about["content"], self._content
        needed = now if not self._goes_on else then | now
        if changed := [name for name in needed if then.get(name) != now.get(name)]:
            raise UserError(
                f"{where} depends on the {' and on the '.join(changed)}, which had another content then; choose "
                "another --workdir, or restore the files (of a model on the hub, NAME@COMMIT is an earlier commit) "
                "and give the function that the run was trained with, if any"
            )
        abstract = (
            jax.tree.map(ocp.utils.to_shape_dtype_struct, like.state),
            jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like.waiting),
        )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), replay=ocp.args.StandardRestore()),
        )
        (state, waiting), replay = restored["state"], np.asarray(restored["replay"]["bytes"])
        if _digest(state, waiting, replay) != about["digest"]:
            raise ValueError("its content is not what was saved")

        def place(whole: np.ndarray, where: jax.Array) -> jax.Array:
            return jax.make_array_from_callback(whole.shape, where.sharding, lambda index: whole[index])

        return Snapshot(state, jax.tree.map(place, waiting, like.waiting), replay, tuple(about["seeds"]))

    def _failure(self, error: Exception) -> TrainingError:
        return TrainingError(f"{self._directory} cannot be written ({' '.join(str(error).split())[:200]})")


def _check_figures(directory: Path) -> None:
    for step in saved_steps(directory):
        file = directory / str(step) / "metrics" / "metrics"
        try:
            is_whole = not file.exists() or isinstance(json.loads(file.read_bytes()), dict)
        except ValueError:
            is_whole = False
        if not is_whole:
            raise UserError(f"{file} is damaged: delete {file.parent} to go on without the figures of this checkpoint")


def _digest(state: TrainState, waiting: tuple[Trajectories, ...], replay: np.ndarray) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((jax.device_get(state), waiting)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    digest.update(replay.tobytes())
    return digest.hexdigest()
