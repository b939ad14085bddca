"""What a run remembers of its prompts, as a fixed share of every batch.

Between the step's arrays and the buffer's entries: here trajectories become entries, and drawn
entries become rows. No reward is computed for them: entries hold its untempered components.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from gfn_jax.config import Config
from gfn_jax.experiment import Experiment
from gfn_jax.replay.admission import Admission, Outcome
from gfn_jax.replay.buffer import ReplayBuffer, Troubles, choose
from gfn_jax.replay.entry import Entry
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.replay.redis import RedisReplay, connect
from gfn_jax.rewards.protocol import Components
from gfn_jax.runtime.batches import Replayed
from gfn_jax.runtime.keys import Purpose
from gfn_jax.runtime.mesh import by_prompt
from gfn_jax.text.prompts import normalised
from gfn_jax.types import Trajectories


def make_buffer(config: Config, namespace: str) -> ReplayBuffer:
    """The buffer that a configuration asks for; raises `UserError` where its server does not answer."""
    replay = config.replay
    admission = Admission(replay.capacity, replay.min_edit_distance)
    if replay.backend == "memory" or not replay.fraction:
        return MemoryReplay(admission)
    return RedisReplay(connect(replay.url, replay.password_variable), namespace, admission)


class Experience:
    """Draws a step's remembered rows, and remembers its fresh ones."""

    def __init__(self, experiment: Experiment, buffer: ReplayBuffer):
        self._experiment, self._buffer = experiment, buffer
        self._count = experiment.config.replayed_per_prompt
        self._is_word_V = np.asarray(experiment.rules.is_word_V)
        self._log_r = jax.jit(experiment.final_log_r)
        self._drawn: list[list[Entry]] = []
        self._outcome, self._troubles, self._step, self._unusable = Outcome(), Troubles(), 0, 0

    def draw(self, step: int, examples: Sequence[Any]) -> None:
        """Takes the remembered rows of an optimiser step (from 0) out of the buffer."""
        if not self._count:
            return
        config = self._experiment.config
        with self._experiment.stopwatch.measure("replay"):
            stored = self._buffer.stored([self._experiment.content_key(example) for example in examples])
            self._drawn = [
                choose(
                    entries,
                    self._count,
                    np.random.default_rng([config.seed, Purpose.REPLAY, step, row]),
                    by_reward=config.replay.sampling == "reward",
                )
                for row, entries in enumerate(stored)
            ]
            self._step = step

    def rows(self, like: Components) -> Replayed | None:
        """What was drawn, as rows on the mesh, with components named and typed as those of fresh rows."""
        if not self._count:
            return None
        rows, length = len(self._drawn) * self._count, self._experiment.config.sampling.max_len
        tokens, lengths = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
        is_terminable = np.zeros((rows, length + 1), bool)
        components = {name: np.zeros((rows, length + 1), values.dtype) for name, values in like.items()}
        is_absent = np.ones(rows, bool)
        for prompt, entries in enumerate(self._drawn):
            for row, entry in enumerate(entries, start=prompt * self._count):
                if not self._fits(entry, components):
                    self._unusable += 1
                    continue
                lengths[row], is_absent[row] = len(entry.tokens), False
                tokens[row, : lengths[row]] = entry.tokens
                is_terminable[row, : lengths[row] + 1] = entry.is_terminable
                for name, values in components.items():
                    values[row, : lengths[row] + 1] = entry.components[name]
        place = partial(jax.device_put, device=by_prompt(self._experiment.mesh))
        trajectories = Trajectories(place(tokens), place(lengths), place(is_terminable))
        return Replayed(trajectories, jax.tree.map(place, components), place(is_absent))

    def remember(self, step: int, examples: Sequence[Any], trajectories: Trajectories, components: Components) -> None:
        """Offers a step's fresh rows to the buffer."""
        if not self._count:
            return
        with self._experiment.stopwatch.measure("replay"):
            offered: dict[str, list[Entry]] = {}
            entries = self.entries(step, trajectories, components)
            keys = [self._experiment.content_key(example) for example in examples]
            per_prompt = len(entries) // len(examples)
            for row, entry in enumerate(entries):
                if entry is not None:
                    offered.setdefault(keys[row // per_prompt], []).append(entry)
            self._outcome = self._buffer.offer(offered)

    def statistics(self) -> dict[str, float]:
        """Figures of the last step: what was drawn for it, and what became of what it offered.

        fill             the share of replayed rows that held something
        hit_rate         the share of prompts that anything was remembered of
        age              mean number of steps since what was drawn was made
        size             continuations that this process knows of
        added, duplicates, poor   of the step's fresh rows: taken in, or refused as near-duplicates or as too poor
        unreadable       payloads in the server that are no entries, or none of this run, met since the step before
        unshared         prompts whose changes wait for the server
        """
        if not self._count:
            return {}
        drawn = [entry for entries in self._drawn for entry in entries]
        troubles = self._buffer.troubles
        unreadable = troubles.unreadable - self._troubles.unreadable + self._unusable
        self._troubles, self._unusable = troubles, 0
        return {
            "fill": len(drawn) / (len(self._drawn) * self._count),
            "hit_rate": float(np.mean([bool(entries) for entries in self._drawn])),
            "age": float(np.mean([self._step - entry.step for entry in drawn])) if drawn else 0.0,
            "size": float(self._buffer.size),
            **{name: float(value) for name, value in self._outcome._asdict().items()},
            "unreadable": float(unreadable),
            "unshared": float(troubles.unshared),
        }

    def _fits(self, entry: Entry, components: Mapping[str, np.ndarray]) -> bool:
        """Whether an entry can be of this run, wherever it comes from."""
        is_text = len(entry.tokens) <= self._experiment.config.sampling.max_len and all(
            0 <= token < len(self._is_word_V) and self._is_word_V[token] for token in entry.tokens.tolist()
        )
        return (
            is_text
            and entry.components.keys() == components.keys()
            and bool(entry.is_terminable.any())
            and all(np.isfinite(values[entry.is_terminable]).all() for values in entry.components.values())
        )

    def entries(self, step: int, trajectories: Trajectories, components: Components) -> list[Entry | None]:
        """Trajectories as the buffer keeps them; None where a row has no finite reward, or no place to stop."""
        log_r = self._log_r(components)
        host, terms, log_r = jax.device_get((trajectories, dict(components), log_r))
        texts = self._experiment.texts(trajectories)
        entries: list[Entry | None] = []
        for row, (text, length) in enumerate(zip(texts, host.length_N.tolist(), strict=True)):
            states = length + 1
            mask = host.is_terminable_NxT[row, :states]
            values = {name: _as_float(term[row, :states]) for name, term in terms.items()}
            is_good = mask[length] and all(np.isfinite(value[mask]).all() for value in values.values())
            score = float(log_r[row, length])
            entries.append(
                Entry(host.tokens_NxL[row, :length].copy(), mask.copy(), values, normalised(text), score, step)
                if is_good and np.isfinite(score)
                else None
            )
        return entries


def _as_float(values: np.ndarray) -> np.ndarray:
    """A copy in the precisions that entries are written in."""
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32)
