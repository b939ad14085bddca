"""A replay buffer in this process's memory; it outlives the process in the run's checkpoints."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gfn_jax.replay.admission import Admission, Outcome
from gfn_jax.replay.buffer import ReplayBuffer
from gfn_jax.replay.entry import Entry, pack_all, unpack_all


class MemoryReplay(ReplayBuffer):
    def __init__(self, admission: Admission):
        self._admission = admission
        self._stored: dict[str, list[Entry]] = {}
        self._size = 0

    def stored(self, prompts: Sequence[str]) -> list[list[Entry]]:
        return [list(self._stored.get(prompt, ())) for prompt in prompts]

    def offer(self, offered: Mapping[str, Sequence[Entry]]) -> Outcome:
        total = Outcome()
        for prompt, entries in offered.items():
            kept, outcome = self._admission.admit(self._stored.get(prompt, ()), entries)
            self.put(prompt, kept)
            total = total.plus(outcome)
        return total

    def put(self, prompt: str, entries: Sequence[Entry]) -> None:
        """Keeps these for a prompt, and nothing else."""
        self._size += len(entries) - len(self._stored.pop(prompt, ()))
        if entries:
            self._stored[prompt] = list(entries)

    @property
    def prompts(self) -> list[str]:
        return list(self._stored)

    def sizes(self, prompts: Iterable[str] | None = None) -> list[tuple[str, int]]:
        wanted = self._stored if prompts is None else prompts
        return [(prompt, len(self._stored.get(prompt, ()))) for prompt in wanted]

    def forget(self, prompts: Sequence[str], *, everywhere: bool = True) -> None:
        for prompt in prompts:
            self.put(prompt, ())

    def snapshot(self, order: Iterable[str] = ()) -> np.ndarray:
        return pack_all(self._stored, order)

    def restore(self, snapshot: np.ndarray) -> None:
        self._stored = unpack_all(snapshot)
        self._size = sum(map(len, self._stored.values()))

    @property
    def size(self) -> int:
        return self._size
