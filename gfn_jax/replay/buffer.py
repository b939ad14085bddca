"""What every replay buffer offers, wherever it keeps its entries."""

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gfn_jax.replay.admission import Outcome
from gfn_jax.replay.entry import Entry


class Troubles(NamedTuple):
    """What went wrong since a buffer was last asked: payloads that could not be read, prompts not yet shared."""

    unreadable: int = 0
    unshared: int = 0


class ReplayBuffer(abc.ABC):
    """The best continuations of every prompt; prompts go by their content keys.

    is_shared  whether the buffers of a run's processes are views of one; else each holds all that it was offered
    """

    is_shared: bool = False

    @abc.abstractmethod
    def stored(self, prompts: Sequence[str]) -> list[list[Entry]]:
        """What is kept for each of these prompts, best first."""

    @abc.abstractmethod
    def offer(self, offered: Mapping[str, Sequence[Entry]]) -> Outcome:
        """Takes in what is worth it, prompt by prompt."""

    @abc.abstractmethod
    def sizes(self, prompts: Iterable[str] | None = None) -> list[tuple[str, int]]:
        """How many continuations these prompts have, or all, as far as this process has seen."""

    @abc.abstractmethod
    def forget(self, prompts: Sequence[str], *, everywhere: bool = True) -> None:
        """Drops all that these prompts have; what is elsewhere goes only with `everywhere`.

        Of a shared buffer's processes each forgets the same ones, one of them everywhere.
        """

    @abc.abstractmethod
    def snapshot(self, order: Iterable[str] = ()) -> np.ndarray:
        """All that is kept, as bytes [length]: first the prompts of `order`, as they come."""

    @abc.abstractmethod
    def restore(self, snapshot: np.ndarray) -> None:
        """Keeps what a snapshot of any buffer holds, in its order, and nothing else; raises `UnreadableError`."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """How many continuations there are."""

    @property
    def troubles(self) -> Troubles:
        return Troubles()

    def leave(self, mark: str) -> bool:
        """Leaves a mark where other processes' views of the buffer should find it; whether that was possible."""
        return False

    def finds(self, mark: str) -> bool:
        """Whether another process's mark is here, as far as can be seen."""
        return True

    def close(self) -> None:
        """Gives back what the buffer holds elsewhere, after its last snapshot."""


def choose(entries: Sequence[Entry], count: int, rng: np.random.Generator, *, by_reward: bool) -> list[Entry]:
    """At most `count` different entries, drawn without replacement: uniformly, or in proportion to their R.

    Adding Gumbel noise to log weights and taking the largest is such a draw (Kool et al. 2019).
    """
    noise = rng.gumbel(size=len(entries))
    weights = np.array([entry.score for entry in entries]) if by_reward else np.zeros(len(entries))
    return [entries[index] for index in np.argsort(-(weights + noise), kind="stable")[:count]]
