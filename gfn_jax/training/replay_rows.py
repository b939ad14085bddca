"""What a run remembers of its prompts, as a fixed share of every batch.

Between the step's arrays and the buffer's entries: here trajectories become entries, and drawn
entries become rows. No reward is computed for them: entries hold its untempered components.
Every process draws and remembers its own rows; a buffer that is not shared is offered everyone's.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gfn_jax.config.schema import Config
from gfn_jax.experiment.batches import Replayed
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.replay.admission import Admission, Outcome
from gfn_jax.replay.buffer import ReplayBuffer, Troubles, choose
from gfn_jax.replay.entry import Entry
from gfn_jax.replay.ledger import Ledger
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.replay.redis import RedisReplay, connect
from gfn_jax.rewards.protocol import Components
from gfn_jax.runtime import distributed
from gfn_jax.runtime.keys import Purpose
from gfn_jax.text.prompts import normalised
from gfn_jax.types import Trajectories


def make_buffer(config: Config, namespace: str) -> ReplayBuffer:
    """The buffer that a configuration asks for; raises `UserError` where its server does not answer."""
    replay = config.replay
    admission = Admission(replay.capacity, replay.min_edit_distance)
    if replay.backend == "memory" or not replay.fraction:
        return MemoryReplay(admission)
    return RedisReplay(connect(replay.url, replay.password_variable), namespace, admission)


class ReplayRows:
    """Draws a step's remembered rows, and remembers its fresh ones."""

    def __init__(self, experiment: Experiment, buffer: ReplayBuffer):
        """Takes over the buffer with what it holds, in the main process where it is shared."""
        self._experiment, self._buffer = experiment, buffer
        self._count = experiment.config.replayed_per_prompt
        self._is_word_V = np.asarray(experiment.rules.is_word_V)
        self._log_r = jax.jit(experiment.final_log_r, out_shardings=experiment.rows.sharding)
        self._drawn: list[list[Entry]] = []
        self._outcome, self._troubles, self._step, self._unusable = Outcome(), Troubles(), 0, 0
        self._ledger = Ledger(experiment.config.replay.total)  # the same in every process
        self._enter(distributed.of_main(buffer.sizes()) if buffer.is_shared else buffer.sizes())

    def draw(self, step: int, examples: Sequence[Any]) -> None:
        """Takes the remembered rows of an optimiser step (from 0) out of the buffer."""
        if not self._count:
            return
        config, rows = self._experiment.config, self._experiment.rows
        with self._experiment.stopwatch.measure("replay"):
            stored = self._buffer.stored([self._experiment.content_key(example) for example in rows.own(examples)])
            self._drawn = [
                choose(
                    entries,
                    self._count,
                    np.random.default_rng([config.seed, Purpose.REPLAY, step, row]),
                    by_reward=config.replay.sampling == "reward",
                )
                for row, entries in zip(rows.numbers(len(examples)), stored, strict=True)
            ]
            self._step = step

    def rows(self, like: Components) -> Replayed | None:
        """What was drawn, as rows on the mesh, with components named and typed as those of fresh rows."""
        if not self._count:
            return None
        rows, length = len(self._drawn) * self._count, self._experiment.config.sampling.max_len
        tokens: Any = np.zeros((rows, length), np.int32)
        lengths: Any = np.zeros(rows, np.int32)
        is_terminable: Any = np.zeros((rows, length + 1), bool)
        components: Any = {name: np.zeros((rows, length + 1), values.dtype) for name, values in like.items()}
        is_absent: Any = np.ones(rows, bool)
        fitting = [[entry for entry in entries if self._fits(entry, components)] for entries in self._drawn]
        self._unusable += sum(map(len, self._drawn)) - sum(map(len, fitting))
        self._drawn = fitting
        for prompt, entries in enumerate(fitting):
            for row, entry in enumerate(entries, start=prompt * self._count):
                lengths[row], is_absent[row] = len(entry.tokens), False
                tokens[row, : lengths[row]] = entry.tokens
                is_terminable[row, : lengths[row] + 1] = entry.is_terminable
                for name, values in components.items():
                    values[row, : lengths[row] + 1] = entry.components[name]
        return self._experiment.rows.place(
            Replayed(Trajectories(tokens, lengths, is_terminable), components, is_absent)
        )

    def final_log_r(self, components: Components) -> jax.Array | None:
        """What fresh rows are remembered by; None where nothing is replayed.

        To be asked for before the step's update: a device works in order, and `remember` would wait for the update.
        """
        return self._log_r(components) if self._count else None

    def remember(
        self,
        step: int,
        examples: Sequence[Any],
        trajectories: Trajectories,
        components: Components,
        final_log_r_NxT: jax.Array | None,
    ) -> None:
        """Offers a step's fresh rows to the buffer, with what `final_log_r` said of them."""
        if final_log_r_NxT is None:
            return
        with self._experiment.stopwatch.measure("replay"):
            entries = self.entries(step, trajectories, components, final_log_r_NxT)
            keys = [self._experiment.content_key(example) for example in self._experiment.rows.own(examples)]
            per_prompt = len(entries) // len(keys)
            fresh = [(keys[row // per_prompt], entry) for row, entry in enumerate(entries) if entry is not None]
            offered: dict[str, list[Entry]] = {}
            first: dict[str, int] = {}  # the process that has a prompt's first row
            for process, prompt, entry in _of_all(fresh):
                offered.setdefault(prompt, []).append(entry)
                first.setdefault(prompt, process)
            if self._buffer.is_shared:
                offered = {prompt: offered[prompt] for prompt, index in first.items() if index == jax.process_index()}
            self._outcome = self._buffer.offer(offered)
            sizes = self._buffer.sizes(offered)
            shares = distributed.gather(sizes) if self._buffer.is_shared else [sizes]
            self._enter(itertools.chain.from_iterable(shares))

    def snapshot(self) -> np.ndarray:
        """The buffer's, from which an experience goes on as this one does; for the main process alone."""
        return self._buffer.snapshot(self._ledger.prompts)

    def statistics(self) -> dict[str, float]:
        """Figures of the last step in all processes: what was replayed in it, and what became of what it offered.

        With a shared buffer, all that was offered is in it afterwards.

        fill             the share of replayed rows that held something
        hit_rate         the share of prompts that anything was replayed of
        age              mean number of steps since what was replayed was made
        size             continuations that are stored
        added, duplicates, poor   of the step's fresh rows: taken in, or refused as near-duplicates or as too poor
        unreadable       payloads in the server that are no entries, or none of this run, met since the step before
        unshared         prompts whose changes wait for the server
        """
        if not self._count:
            return {}
        drawn = [entry for entries in self._drawn for entry in entries]
        troubles = self._buffer.troubles
        own = {
            "prompts": len(self._drawn),
            "hits": sum(bool(entries) for entries in self._drawn),
            "drawn": len(drawn),
            "ages": sum(self._step - entry.step for entry in drawn),
            "unreadable": troubles.unreadable - self._troubles.unreadable + self._unusable,
            "unshared": troubles.unshared,
            **(self._outcome if self._is_in_charge else Outcome())._asdict(),
        }
        self._troubles, self._unusable = troubles, 0
        with self._experiment.stopwatch.measure("replay"):
            shares = distributed.gather(own)
        total = {name: float(sum(share[name] for share in shares)) for name in own}
        return {
            "fill": total["drawn"] / (total["prompts"] * self._count),
            "hit_rate": total["hits"] / total["prompts"],
            "age": total["ages"] / max(total["drawn"], 1),
            "size": float(self._buffer.size if distributed.is_main() else 0),
            **{name: total[name] for name in (*Outcome._fields, "unreadable", "unshared")},
        }

    def _enter(self, sizes: Iterable[tuple[str, int]]) -> None:
        """Takes what prompts have now, which were offered something, and keeps the total bounded."""
        if forgotten := self._ledger.enter(sizes):
            self._buffer.forget(forgotten, everywhere=distributed.is_main())

    @property
    def _is_in_charge(self) -> bool:
        """Whether what this process does to the buffer counts: once for all, or for what it alone offers."""
        return self._buffer.is_shared or distributed.is_main()

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

    def entries(
        self, step: int, trajectories: Trajectories, components: Components, final_log_r_NxT: jax.Array
    ) -> list[Entry | None]:
        """This process's rows as the buffer keeps them; None where one has no finite reward, or no place to stop."""
        host, terms, log_r = self._experiment.rows.fetch((trajectories, dict(components), final_log_r_NxT))
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


def _of_all(own: Sequence[tuple[str, Entry]]) -> Iterator[tuple[int, str, Entry]]:
    """The entries of all processes in their order: the process, the prompt, the entry."""
    if jax.process_count() == 1:
        yield from ((0, prompt, entry) for prompt, entry in own)
        return
    for process, theirs in enumerate(distributed.gather([(prompt, entry.pack()) for prompt, entry in own])):
        yield from ((process, prompt, Entry.unpack(payload)) for prompt, payload in theirs)


def _as_float(values: np.ndarray) -> np.ndarray:
    """A copy in the precisions that entries are written in."""
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32)
