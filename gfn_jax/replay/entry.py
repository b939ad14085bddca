"""A remembered continuation: its reward components at every prefix, and how it is written as bytes."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import numpy as np

FORMAT = 1
"""Version of the payload: raised whenever what stands in it changes."""


class UnreadableError(ValueError):
    """A payload that is no entry of this version."""


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A continuation of `tokens` [length], as the buffer keeps it.

    text         normalised: what near-duplicates are found by
    score        log R of the whole at the end of training: which ones are the best
    step         the optimiser step that it was drawn for
    components   the untempered terms of log R by name, each [length + 1]
    """

    tokens: np.ndarray
    is_terminable: np.ndarray
    components: Mapping[str, np.ndarray]
    text: str
    score: float
    step: int

    @functools.cached_property
    def key(self) -> str:
        """What the continuation is called: the same in every process and every run."""
        return hashlib.sha256(self.tokens.astype("<i4").tobytes()).hexdigest()[:32]

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        return tuple(self.text.split())

    @property
    def order(self) -> tuple[float, str]:
        """Sorts the best first."""
        return -self.score, self.key

    def pack(self) -> bytes:
        terms = {name: (values.dtype.str, values.tobytes()) for name, values in sorted(self.components.items())}
        fields = (
            FORMAT,
            self.tokens.astype("<i4").tobytes(),
            self.is_terminable.astype("u1").tobytes(),
            terms,
            self.text,
            self.score,
            self.step,
        )
        return _packed(fields)

    @classmethod
    def unpack(cls, payload: bytes) -> "Entry":
        """Raises `UnreadableError` for whatever `pack` has not written; runs nothing that stands in it."""
        try:
            version, tokens, is_terminable, terms, text, score, step = _unpacked(payload)
            if version != FORMAT:
                raise UnreadableError(f"format {version!r} instead of {FORMAT}")
            entry = cls(
                np.frombuffer(tokens, "<i4"),
                np.frombuffer(is_terminable, "u1").astype(bool),
                {str(name): np.frombuffer(values, _float(dtype)) for name, (dtype, values) in terms.items()},
                str(text),
                float(score),
                int(step),
            )
        except UnreadableError:
            raise
        except Exception as error:  # garbage fails in as many ways as there are bytes
            raise UnreadableError(f"not an entry: {error}") from error
        states = len(entry.tokens) + 1
        if any(values.shape != (states,) for values in (entry.is_terminable, *entry.components.values())):
            raise UnreadableError("arrays of different lengths")
        if not np.isfinite(entry.score):
            raise UnreadableError("a score that is not finite")
        return entry


def pack_all(stored: Mapping[str, list[Entry]], order: Iterable[str] = ()) -> np.ndarray:
    """A whole buffer, by prompt, as bytes: the prompts of `order` first, as they come, then the others by name."""
    prompts = dict.fromkeys([*(prompt for prompt in order if prompt in stored), *sorted(stored)])
    written = {prompt: [entry.pack() for entry in stored[prompt]] for prompt in prompts}
    return np.frombuffer(_packed(written), np.uint8)


def unpack_all(packed: np.ndarray) -> dict[str, list[Entry]]:
    """The inverse of `pack_all`, prompts in the same order; raises `UnreadableError`."""
    try:
        written = _unpacked(packed.tobytes())
        return {prompt: [Entry.unpack(payload) for payload in payloads] for prompt, payloads in written.items()}
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError(f"not a buffer: {error}") from error


def _packed(value: Any) -> bytes:
    packed = msgpack.packb(value)
    assert packed is not None
    return packed


def _unpacked(payload: bytes) -> Any:
    return msgpack.unpackb(payload)


def _float(dtype: str) -> np.dtype:
    if dtype not in ("<f4", "<f8"):
        raise UnreadableError(f"values of type {dtype!r}")
    return np.dtype(dtype)


NOTHING = pack_all({})
"""An empty buffer."""
