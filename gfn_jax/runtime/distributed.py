"""Several processes as one: who begins how, and what they tell each other outside of compiled programs."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import msgpack
import numpy as np
from jax.experimental import multihost_utils

from gfn_jax.runtime.errors import ElsewhereError, TrainingError, UserError

HEARTBEAT_S = 30
"""A process that was silent for so long counts as dead, and ends the others."""

_JOINING_S = 300  # in which all processes must have begun
_SHORT = 1 << 10  # bytes that a message has room for in the first round
_HEADER = 8  # bytes that hold its length
_SIGNS_OF_LOSS = ("Gloo", "closed by peer", "NCCL", "heartbeat", "coordination service", "CoordinationService")


def initialize(mode: str, coordinator: str | None, processes: int | None, process_id: int | None) -> bool:
    """Joins the processes of a run, before anything asks for a device; whether this is one of several.

    `mode` is auto, on or off. With "auto" they are joined where `coordinator`, `processes` and
    `process_id` are given, or where Slurm or Open MPI started several; with "on" they are in any case, and
    JAX finds out what is not given. Raises `UserError` for flags that do not go together, and
    `TrainingError` where the others are not found.
    """
    given = {"coordinator": coordinator, "processes": processes, "process_id": process_id}
    is_given = any(value is not None for value in given.values())
    if is_given and mode == "off":
        raise UserError("--distributed=off, and yet --coordinator, --processes or --process_id is given")
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if is_given and missing:
        raise UserError(f"--coordinator, --processes and --process_id go together; {' and '.join(missing)} is missing")
    by_slurm, by_mpi = _is_slurm_task(), int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
    if mode == "off" or not (mode == "on" or is_given or by_slurm or by_mpi):
        return False
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # signals are ours
    # Open MPI's later versions do not say where process 0 is; mpi4py knows.
    is_silent = by_mpi and not is_given and not by_slurm and "OMPI_MCA_orte_hnp_uri" not in os.environ
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            cluster_detection_method="mpi4py" if is_silent else None,
            initialization_timeout=_JOINING_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"the processes of this run cannot be joined: {error}") from error
    except RuntimeError as error:
        raise TrainingError(
            f"the processes of this run did not find each other: {' '.join(str(error).split())[:300]}"
        ) from error
    return True


def _is_slurm_task() -> bool:
    """Whether Slurm started this as one of several tasks: not so in a batch script itself."""
    return {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= os.environ.keys() and int(os.environ.get("SLURM_NTASKS", 1)) > 1


def is_main() -> bool:
    """Whether this is the process that writes what a run writes once."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Every process's value, in their order: plain values, lists and dicts of them, and bytes.

    All processes must call it, as often and in the same order as anything else that they do together.
    """
    if jax.process_count() == 1:
        return [value]
    payload = msgpack.packb(value)
    assert payload is not None
    message = len(payload).to_bytes(_HEADER, "little") + payload
    messages = _exchange(message[:_SHORT], _SHORT)
    lengths = [_HEADER + int.from_bytes(said[:_HEADER], "little") for said in messages]
    if max(lengths) > _SHORT:
        # A power of two: programs for few different sizes are compiled.
        messages = _exchange(message, 1 << (max(lengths) - 1).bit_length())
    return [
        msgpack.unpackb(said[_HEADER:length], strict_map_key=False)
        for said, length in zip(messages, lengths, strict=True)
    ]


def of_main(value: Any) -> Any:
    """The main process's value, in every process."""
    return gather(value if is_main() else None)[0]


def of_any(value: Any) -> Any:
    """The first process's value that is not empty, in every process; an empty one where all are."""
    return next(filter(None, gather(value)), value)


def check_same(values: Mapping[str, Any]) -> None:
    """Raises `UserError`, in a process where one of these is not what it is in the main one, by its name."""
    mains = of_main(dict(values))
    if differing := [name for name, value in values.items() if value != mains[name]]:
        raise UserError(f"process {jax.process_index()} has another {' and another '.join(differing)} than process 0")


@contextlib.contextmanager
def in_agreement() -> Iterator[None]:
    """A context that fails in every process where it fails in one.

    Raises the `UserError` where it was raised, and in the first process alone where several did;
    in the others an `ElsewhereError`.
    """
    failure = None
    try:
        yield
    except UserError as error:
        failure = error
    failures = gather(None if failure is None else str(failure))
    first = next((index for index, said in enumerate(failures) if said is not None), None)
    if first is None:
        return
    if failure is not None and first == jax.process_index():
        raise failure
    raise ElsewhereError(f"process {first}: {failures[first]}")


def is_loss(error: BaseException) -> bool:
    """Whether this is how a computation over all processes fails where one of them has ended."""
    return jax.process_count() > 1 and any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def lost_process(error: Exception, progress: str) -> TrainingError:
    """What to end with after such an `error`; `progress` says what the run can go on from."""
    return TrainingError(
        f"process {jax.process_index()} of {jax.process_count()}: another process of this run has ended "
        f"({' '.join(str(error).split())[:120]}); the same command, in all processes, goes on; {progress}"
    )


def fetch(tree: Any) -> Any:
    """Whole arrays, of whatever lies on all processes' devices, as host arrays."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _exchange(message: bytes, room: int) -> list[bytes]:
    buffer = np.zeros(room, np.uint8)
    buffer[: len(message)] = np.frombuffer(message, np.uint8)
    return [said.tobytes() for said in multihost_utils.process_allgather(buffer)]
