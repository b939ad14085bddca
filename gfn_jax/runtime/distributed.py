"""Several processes as one: who begins how, and what they tell each other outside of compiled programs."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import msgpack
import numpy as np
from jax.experimental import multihost_utils

from gfn_jax.errors import ElsewhereError, LostProcessError, UserError

HEARTBEAT_S = 30
"""A process that was silent for so long counts as dead, and ends the others."""

_SIGNS_OF_LOSS = ("Gloo", "closed by peer", "NCCL", "heartbeat", "coordination service", "CoordinationService")
_SHORT = 1 << 10  # bytes that a message has room for in the first round
_HEADER = 8  # bytes that hold its length

_LAUNCHED: tuple[Mapping[str, str], ...] = (  # what a launcher of several processes sets: how many, and which of them
    {"count": "SLURM_NTASKS", "index": "SLURM_PROCID", "step": "SLURM_STEP_NODELIST"},
    {"count": "OMPI_COMM_WORLD_SIZE", "index": "OMPI_COMM_WORLD_RANK"},
)


def initialize(mode: str, coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    """Joins the processes of a run; to be called before anything else asks for a device.

    `mode` is auto, on or off. With "auto" they are joined where `coordinator`, `processes` or
    `process_id` is given, or where Slurm or Open MPI started several; with "on" they are in any case, and
    JAX finds out what is not given. Raises `UserError` where they cannot be.
    """
    given = {"coordinator": coordinator, "processes": processes, "process_id": process_id}
    is_given = any(value is not None for value in given.values())
    if mode == "off" or (mode == "auto" and not is_given and not _is_one_of_several()):
        return
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if is_given and missing:
        raise UserError(f"--coordinator, --processes and --process_id go together; {' and '.join(missing)} is missing")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            initialization_timeout=300,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=HEARTBEAT_S,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the processes of this run do not find each other: {' '.join(str(error).split())}") from error


def _is_one_of_several() -> bool:
    for names in _LAUNCHED:
        if all(name in os.environ for name in names.values()) and int(os.environ[names["count"]]) > 1:
            return True
    return False


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


def check_same(value: str, difference: str) -> None:
    """Raises `UserError`, in a process whose value is not the main one's, with words for the `difference`."""
    if value != of_main(value):
        raise UserError(f"process {jax.process_index()} {difference} than process 0")


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


def is_loss(error: Exception) -> bool:
    """Whether this is how a computation over all processes fails where one of them has ended."""
    return jax.process_count() > 1 and any(sign in str(error) for sign in _SIGNS_OF_LOSS)


def lost_process(progress: str) -> LostProcessError:
    """The error to end with after such a loss; `progress` says what the run can go on from."""
    return LostProcessError(
        f"process {jax.process_index()} of {jax.process_count()}: another process of this run has ended; "
        f"the same command, in all processes, goes on; {progress}"
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
