"""What a run remembers of its prompts, as a fixed share of every batch.

Between the step's arrays and the buffer's entries: drawn entries become rows here, and fresh rows
entries in `row_entries.py`. No reward is computed for them: entries hold its untempered components.
Every process draws and remembers its own rows; a buffer that is not shared is offered everyone's.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from gfn_jax.config.schema import Config, Replay
from gfn_jax.experiment.batches import Replayed
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.replay.admission import Admission, Outcome
from gfn_jax.replay.buffer import ReplayBuffer, choose
from gfn_jax.replay.entry import Entry
from gfn_jax.replay.ledger import Ledger
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.rewards.protocol import Components
from gfn_jax.runtime import distributed
from gfn_jax.runtime.keys import Purpose
from gfn_jax.training.row_entries import RowEntries
from gfn_jax.types import Trajectories


def make_buffer(settings: Replay, namespace: str) -> ReplayBuffer:
    """The buffer that a configuration asks for; raises `UserError` where its server does not answer."""
    admission = Admission(settings.capacity, settings.min_edit_distance)
    if settings.backend == "memory" or not settings.fraction:
        return MemoryReplay(admission)
    from gfn_jax.replay.redis import RedisReplay, connect  # slow to import

    return RedisReplay(connect(settings.url, settings.password_variable), namespace, admission)


def idle_rows(config: Config, prompts: int) -> str:
    """What a run should know that never comes to a prompt twice, and so has nothing to recall of it; else empty."""
    steps, visits = config.train.steps, config.train.steps * config.train.prompts_per_step
    if not config.replay.fraction or visits > prompts:
        return ""
    return (
        f"replay.fraction: no prompt comes a second time, as {steps} steps take {visits} of {prompts}: "
        f"{config.replayed_per_prompt} of each prompt's {config.sampling.samples_per_prompt} rows stay empty "
        "unless seeds fill them"
    )


@dataclasses.dataclass(frozen=True)
class Recalled:
    """What was drawn out of the buffer for an optimiser step: of each of this process's prompts some entries.

    unusable  how many more were drawn that cannot be of this run
    """

    step: int
    entries: Sequence[Sequence[Entry]]
    unusable: int = 0


class ReplayRows:
    """Draws a step's remembered rows, and remembers its fresh ones.

    The step's calls, in their order, where each is given what the ones before it returned:

        recalled = draw(step, examples)
        usable = only_usable(recalled, components), once these are there
        replayed, log_r = rows(usable, components), final_log_r(components), for and before the update
        outcome = remember(step, examples, trajectories, components, log_r)
        statistics(usable, outcome)

    Where nothing is replayed they do nothing.
    """

    def __init__(self, experiment: Experiment, buffer: ReplayBuffer):
        """Takes over the buffer with what it holds, in the main process where it is shared."""
        self._experiment, self._buffer = experiment, buffer
        self._count = experiment.config.replayed_per_prompt
        self._is_word_V = np.asarray(experiment.rules.is_word_V)
        self._row_entries = RowEntries(experiment)
        self._unreadable = 0  # when `statistics` was asked for last
        self._ledger = Ledger(experiment.config.replay.total)  # the same in every process
        self._enter(distributed.of_main(buffer.sizes()) if buffer.is_shared else buffer.sizes())

    def draw(self, step: int, examples: Sequence[Any]) -> Recalled:
        """Entries for an optimiser step (from 0), out of what the buffer holds for its examples."""
        if not self._count:
            return Recalled(step, ())
        config, rows = self._experiment.config, self._experiment.rows
        with self._experiment.stopwatch.measure("replay"):
            stored = self._buffer.stored(self._own_keys(examples))
            drawn = [
                choose(
                    entries,
                    self._count,
                    np.random.default_rng([config.seed, Purpose.REPLAY, step, row]),
                    by_reward=config.replay.sampling == "reward",
                )
                for row, entries in zip(rows.numbers(len(examples)), stored, strict=True)
            ]
            return Recalled(step, drawn)

    def only_usable(self, recalled: Recalled, like: Components) -> Recalled:
        """Those entries that can be of this run, wherever they come from; its components are named as these."""
        usable = [[entry for entry in entries if self._fits(entry, like)] for entries in recalled.entries]
        return Recalled(recalled.step, usable, sum(map(len, recalled.entries)) - sum(map(len, usable)))

    def rows(self, usable: Recalled, like: Components) -> Replayed | None:
        """What was recalled, as rows on the mesh, with components typed as those of fresh rows."""
        if not self._count:
            return None
        rows, length = len(usable.entries) * self._count, self._experiment.config.sampling.max_len
        tokens: Any = np.zeros((rows, length), np.int32)
        lengths: Any = np.zeros(rows, np.int32)
        is_terminable: Any = np.zeros((rows, length + 1), bool)
        components: Any = {name: np.zeros((rows, length + 1), values.dtype) for name, values in like.items()}
        is_absent: Any = np.ones(rows, bool)
        for prompt, entries in enumerate(usable.entries):
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
        return self._row_entries.final_log_r(components) if self._count else None

    def remember(
        self,
        step: int,
        examples: Sequence[Any],
        trajectories: Trajectories,
        components: Components,
        final_log_r_NxT: jax.Array | None,
    ) -> Outcome:
        """Offers a step's fresh rows to the buffer, with what `final_log_r` said of them; what became of them."""
        if final_log_r_NxT is None:
            return Outcome()
        with self._experiment.stopwatch.measure("replay"):
            return self.offer(examples, self._row_entries.of(step, trajectories, components, final_log_r_NxT))

    def offer(self, examples: Sequence[Any], entries: Sequence[Entry | None]) -> Outcome:
        """Offers entries of this process's rows, equally many for each of its share of these examples."""
        keys = self._own_keys(examples)
        per_prompt = len(entries) // len(keys)
        fresh = [(keys[row // per_prompt], entry) for row, entry in enumerate(entries) if entry is not None]
        offered = self._to_offer(fresh)
        outcome = self._buffer.offer(offered)
        sizes = self._buffer.sizes(offered)
        shares = distributed.gather(sizes) if self._buffer.is_shared else [sizes]
        self._enter(itertools.chain.from_iterable(shares))
        return outcome

    def snapshot(self) -> np.ndarray:
        """The buffer's, from which an experience goes on as this one does; for the main process alone."""
        return self._buffer.snapshot(self._ledger.prompts)

    def statistics(self, usable: Recalled, outcome: Outcome) -> dict[str, float]:
        """Figures of a step in all processes: what was replayed in it, and what became of what it offered.

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
        drawn = [entry for entries in usable.entries for entry in entries]
        troubles = self._buffer.troubles
        own = {
            "prompts": len(usable.entries),
            "hits": sum(bool(entries) for entries in usable.entries),
            "drawn": len(drawn),
            "ages": sum(usable.step - entry.step for entry in drawn),
            "unreadable": troubles.unreadable - self._unreadable + usable.unusable,
            "unshared": troubles.unshared,
            **(outcome if self._is_in_charge else Outcome())._asdict(),
        }
        self._unreadable = troubles.unreadable
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

    def _own_keys(self, examples: Sequence[Any]) -> list[str]:
        """What this process's share of a step's examples are called in the buffer."""
        return [self._experiment.content_key(example) for example in self._experiment.rows.own(examples)]

    def _to_offer(self, fresh: Sequence[tuple[str, Entry]]) -> dict[str, list[Entry]]:
        """What this process has to offer of all processes' entries, by prompt.

        All of it, or with a shared buffer what is of the prompts whose first entry is this process's.
        """
        offered: dict[str, list[Entry]] = {}
        first: dict[str, int] = {}  # the process that has a prompt's first entry
        for process, prompt, entry in _of_all(fresh):
            offered.setdefault(prompt, []).append(entry)
            first.setdefault(prompt, process)
        if not self._buffer.is_shared:
            return offered
        return {prompt: offered[prompt] for prompt, process in first.items() if process == jax.process_index()}

    def _enter(self, sizes: Iterable[tuple[str, int]]) -> None:
        """Takes what prompts have now, which were offered something, and keeps the total bounded."""
        if forgotten := self._ledger.enter(sizes):
            self._buffer.forget(forgotten, everywhere=distributed.is_main())

    @property
    def _is_in_charge(self) -> bool:
        """Whether what this process does to the buffer counts: once for all, or for what it alone offers."""
        return self._buffer.is_shared or distributed.is_main()

    def _fits(self, entry: Entry, like: Components) -> bool:
        """Whether an entry can be of this run, wherever it comes from: it may stop at its end, and not too early."""
        sampling = self._experiment.config.sampling
        is_text = sampling.min_len <= len(entry.tokens) <= sampling.max_len and all(
            0 <= token < len(self._is_word_V) and self._is_word_V[token] for token in entry.tokens.tolist()
        )
        return (
            is_text
            and entry.components.keys() == like.keys()
            and bool(entry.is_terminable[-1] and not entry.is_terminable[: sampling.min_len].any())
            and all(np.isfinite(values[entry.is_terminable]).all() for values in entry.components.values())
        )


def _of_all(own: Sequence[tuple[str, Entry]]) -> Iterator[tuple[int, str, Entry]]:
    """The entries of all processes in their order: the process, the prompt, the entry."""
    if jax.process_count() == 1:
        yield from ((0, prompt, entry) for prompt, entry in own)
        return
    for process, theirs in enumerate(distributed.gather([(prompt, entry.pack()) for prompt, entry in own])):
        yield from ((process, prompt, Entry.unpack(payload)) for prompt, payload in theirs)
