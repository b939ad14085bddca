"""Continuations from elsewhere for a run's replay buffer: scored once, sown when training starts."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from gfn_jax.config.schema import Config
from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import Experiment, build
from gfn_jax.policy.scorer import score
from gfn_jax.replay.admission import Admission
from gfn_jax.replay.buffer import ReplayBuffer
from gfn_jax.replay.entry import Entry, UnreadableError, unpack_all
from gfn_jax.replay.memory import MemoryReplay
from gfn_jax.runs.directory import check_data, check_ownership, claimed, read_run_id
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.progress import has_bars
from gfn_jax.tasks import make_task
from gfn_jax.text.prompts import read_objects
from gfn_jax.training.row_entries import RowEntries
from gfn_jax.types import Prompts, Trajectories


class Candidate(NamedTuple):
    """A continuation of an example, as tokens without the terminator."""

    example: Any
    tokens: list[int]


def seed_replay(config: Config, workdir: Path, pool: Path, console: Console) -> None:
    """Scores the pool's continuations, and leaves them in the workdir for the run's buffer.

    Raises `UserError` where the run replays nothing, or the pool is not one.
    """
    check_ownership(workdir, config)
    if not config.replayed_per_prompt:
        raise UserError("replay.fraction is 0: this run replays nothing")
    examples = Examples.load(make_task(config), config.seed)
    data_hash = examples.sha256()
    check_data(workdir, data_hash)
    with build(config) as experiment:
        known = {experiment.task.prompt(example): example for example in examples.train}
        refused: Counter[str] = Counter()
        candidates = list(_read(pool, experiment, known, refused))
        if len(candidates) > config.replay.total:
            raise UserError(
                f"--pool has {len(candidates)} continuations for this run, more than replay.total = "
                f"{config.replay.total}: leave some out"
            )
        seeds = MemoryReplay(Admission(config.replay.capacity, config.replay.min_edit_distance))
        for example, entry in _score(experiment, candidates, console):
            if entry is None:
                refused["not in the policy's support, or without a finite reward"] += 1
                continue
            outcome = seeds.offer({experiment.content_key(example): [entry]})
            refused["nearly the same as a better one"] += outcome.duplicates
            refused[f"worse than the {config.replay.capacity} best of the prompt"] += outcome.poor
        with claimed(workdir, config, data_hash, read_run_id(workdir)):
            _leave(workdir / "seeds", seeds.snapshot())
    console.print(f"{seeds.size} continuations of {len(seeds.prompts)} prompts are kept for the run in {workdir}")
    for reason, count in refused.items():
        if count:
            console.print(f"{count} refused: {reason}", soft_wrap=True)


def sow(buffer: ReplayBuffer, workdir: Path, sown: Sequence[str]) -> tuple[str, ...]:
    """Offers the buffer the seeds that it was not offered yet; the names of all that it was."""
    names = [file.stem for file in sorted((workdir / "seeds").glob("*.bin")) if file.stem not in sown]
    for name in names:
        file = workdir / "seeds" / f"{name}.bin"
        try:
            buffer.offer(unpack_all(np.fromfile(file, np.uint8)))
        except UnreadableError as error:
            raise UserError(f"{file} is damaged ({error}): delete it, and run gfn_jax.seed_replay again") from error
    return (*sown, *names)


def _leave(directory: Path, packed: np.ndarray) -> None:
    """Writes seeds under a name of their content, whole or not at all."""
    file = directory / f"{hashlib.sha256(packed.tobytes()).hexdigest()[:16]}.bin"
    try:
        directory.mkdir(exist_ok=True)
        packed.tofile(file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error}") from error


def _read(pool: Path, experiment: Experiment, known: Mapping[str, Any], refused: Counter[str]) -> Iterator[Candidate]:
    task, config = experiment.task, experiment.config
    for where, fields in read_objects(str(pool), "--pool"):
        if not isinstance(fields.get("continuation"), str):
            raise UserError(f'{where} is not a JSON object with "continuation", a text')
        example = task.parse_example(where, fields)
        try:
            tokens = experiment.continuation(fields["continuation"])
        except UserError:
            refused[f"goes on after {config.task.terminator!r}"] += 1
            continue
        if task.prompt(example) not in known:
            refused["no training example has this prompt"] += 1
        elif len(tokens) > config.sampling.max_len:
            refused[f"longer than sampling.max_len = {config.sampling.max_len} tokens"] += 1
        else:
            yield Candidate(known[task.prompt(example)], tokens)


def _score(
    experiment: Experiment, candidates: Sequence[Candidate], console: Console
) -> Iterator[tuple[Any, Entry | None]]:
    """Each candidate's example and, where the policy could have sampled it, its entry."""
    config = experiment.config
    row_entries = RowEntries(experiment)

    @jax.jit
    def scored(adapter, frozen, prompts: Prompts, trajectories: Trajectories):
        models = experiment.structure.policy_and_frozen(adapter, frozen)
        scores = score(*models, experiment.rules, prompts, trajectories)
        return scores.is_terminable_NxT, jnp.isfinite(scores.log_pf_NxL).all(1)

    size = config.train.prompts_per_step
    firsts = range(0, len(candidates), size)
    for first in track(firsts, "scoring", console=console, disable=not has_bars(console)):
        batch = candidates[first : first + size]
        padded = list(itertools.islice(itertools.cycle(batch), size))
        examples = [candidate.example for candidate in padded]
        prompts = experiment.encode(examples)
        tokens = np.zeros((size, config.sampling.max_len), np.int32)
        for row, candidate in zip(tokens, padded, strict=True):
            row[: len(candidate.tokens)] = candidate.tokens
        lengths = jnp.asarray([len(candidate.tokens) for candidate in padded], jnp.int32)
        given = experiment.rows.place(Trajectories.given(jnp.asarray(tokens), lengths))
        is_terminable_NxT, is_possible_N = scored(experiment.adapter, experiment.frozen, prompts, given)
        trajectories = given.replace(is_terminable_NxT=is_terminable_NxT)
        components = experiment.reward.components(experiment.frozen, examples, prompts, trajectories)
        entries = row_entries.of(0, trajectories, components, row_entries.final_log_r(components))
        for candidate, entry, is_possible in zip(batch, entries, np.asarray(is_possible_N), strict=False):
            yield candidate.example, entry if is_possible else None
