"""Continuations by a trained policy, or by another way of decoding, with what policy and reward say of them."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gfn_jax.config.schema import Config
from gfn_jax.evaluation.methods import Method, all_methods, choose, make_draw
from gfn_jax.experiment.experiment import Experiment
from gfn_jax.models.mesh import batch_size
from gfn_jax.models.parts import Weights
from gfn_jax.policy.sampler import Behaviour
from gfn_jax.policy.scorer import score
from gfn_jax.rewards.protocol import Components
from gfn_jax.runs.opened import BEST, TrainedRun, open_run, read_finished_config
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.keys import Purpose, key_for
from gfn_jax.tasks import Task, make_task
from gfn_jax.text.prompts import pad_to_bucket, parse_object, read_lines
from gfn_jax.types import Prompts, Trajectories

TEMPERED = ("GFlowNet", "sampling")
"""Methods that sample a model as it is, and so at any temperature."""
_COLDEST = 1e-3
_STANDARD_INPUT = "/dev/stdin"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which continuations: how many of each prompt, by which method of decoding, of which checkpoint's policy."""

    count: int = 8
    method: str = "GFlowNet"
    temperature: float = 1.0
    seed: int = 0
    checkpoint: str = BEST


class Given(NamedTuple):
    """An example, and words for where it stands: empty where the flags name it."""

    where: str
    example: Any


@dataclasses.dataclass(frozen=True)
class Sample:
    """A continuation, and what is said of it.

    remarks     of the reward, for a person to read beside it
    log_pf      log π(y ⊤ | x) under the trained policy at temperature 1, whatever drew it
    log_r       log R as the end of training has it
    components  the terms of log R
    """

    text: str
    remarks: Mapping[str, Any]
    log_pf: float
    log_r: float
    components: Mapping[str, float]


def print_samples(
    workdir: Path,
    fields: Mapping[str, str | None],
    file: str,
    wanted: Wanted,
    console: Console,
    *,
    as_json: bool,
    overrides: Sequence[str] = (),
    trust_task: bool = False,
) -> None:
    """Prints continuations of the example with these `fields`, or of those in a `file`, as soon as they are drawn.

    They are tables or, alone on the standard output, JSON lines. `overrides` are of `read_finished_config`. Raises
    `UserError` where the run has no such checkpoint, an example is none, or there is no such method.
    """
    config = read_finished_config(workdir, overrides, trust_task=trust_task)
    method = _method(config, wanted)
    task = make_task(config)
    given = _read(task, file, fields) if file else [Given("", task.check_example(fields))]
    with open_run(workdir, config, wanted.checkpoint) as run:
        _check(run.experiment, given)
        for line in run.account:
            (Console(stderr=True) if as_json else console).print(line, soft_wrap=True)
        sampler = _Sampler(run, method, wanted.seed)
        for example, samples in sampler.sample([each.example for each in given]):
            if as_json:
                for row in _rows(task, example, samples):
                    console.out(json.dumps(row, ensure_ascii=False), highlight=False)
            else:
                console.print(_table(task.prompt(example), samples))


def _method(config: Config, wanted: Wanted) -> Method:
    if not _COLDEST <= wanted.temperature < math.inf:
        raise UserError(f"--temperature {wanted.temperature:g}: it must be {_COLDEST:g} or more")
    count = 1 if wanted.method == "greedy" else wanted.count  # others would be the same text again
    (method,) = choose(all_methods(count, config.reward.temperature_end), [wanted.method], "--method")
    if wanted.temperature == 1:
        return method
    if method.name not in TEMPERED:
        raise UserError(f"--temperature is for --method {' or '.join(TEMPERED)}: leave it out for {method.name!r}")
    behaviour = Behaviour(wanted.temperature, wanted.temperature, 1.0)
    return dataclasses.replace(method, arguments=behaviour)


def _read(task: Task, file: str, fields: Mapping[str, str | None]) -> list[Given]:
    """The examples of a file, one a line: a JSON object with the task's fields, or just a prompt where that is all."""
    if named := [f"--{name}" for name, value in fields.items() if value is not None]:
        raise UserError(f"--input names the examples: leave out {' and '.join(named)}")
    path = _STANDARD_INPUT if file == "-" else file
    given = []
    for number, line in read_lines(path, "--input"):
        where = f"--input: {path} line {number}"
        is_prompt = task.fields == ("prompt",) and not line.startswith("{")
        found = {"prompt": line} if is_prompt else parse_object(where, line)
        given.append(Given(where, task.parse_example(where, found)))
    return given


def _check(experiment: Experiment, given: Sequence[Given]) -> None:
    for where, example in given:
        try:
            experiment.check_examples([example], in_buckets=False)
        except UserError as error:
            raise UserError(f"{where}: {error}" if where else str(error)) from error


class _Sampler:
    """Draws continuations of many prompts, batch by batch, and says what they are worth."""

    def __init__(self, run: TrainedRun, method: Method, seed: int):
        self._experiment, self._adapter = run.experiment, run.snapshot.state.adapter
        self._method, self._seed = method, seed
        experiment, structure, rules = self._experiment, self._experiment.structure, self._experiment.rules

        @jax.jit
        def worth(adapter: Weights, frozen: Weights, prompts, trajectories: Trajectories, components: Components):
            scores = score(*structure.policy_and_frozen(adapter, frozen), rules, prompts, trajectories)

            def at_end(values_NxT: jax.Array) -> jax.Array:
                return jnp.take_along_axis(values_NxT, trajectories.length_N[:, None], axis=1)[:, 0]

            log_pf_N = scores.log_pf_NxL.sum(1) + at_end(scores.log_pterm_NxT)
            return log_pf_N, at_end(experiment.final_log_r(components)), jax.tree.map(at_end, components)

        self._draw, self._worth = make_draw(structure, rules), worth

    def sample(self, examples: Sequence[Any]) -> Iterator[tuple[Any, list[Sample]]]:
        """Every example with its continuations, likeliest first; with fewer where there are no more."""
        ways = batch_size(self._experiment.mesh)
        size = min(self._experiment.config.eval.prompts_per_batch, -(-len(examples) // ways) * ways)
        for number, start in enumerate(range(0, len(examples), size)):
            yield from self._sample_batch(number, examples[start : start + size], size)

    def _sample_batch(self, number: int, examples: Sequence[Any], size: int) -> Iterator[tuple[Any, list[Sample]]]:
        experiment = self._experiment
        padded = list(itertools.islice(itertools.cycle(examples), size))
        prompts, weights = self._encode(padded), (self._adapter, experiment.frozen)
        key = key_for(self._seed, Purpose.SAMPLING, number)
        trajectories, is_there_N = self._draw(self._method.draw, *weights, prompts, key, self._method.arguments)
        components = dict(experiment.reward.components(experiment.frozen, padded, prompts, trajectories))
        log_pf, log_r, terms = jax.device_get(self._worth(*weights, prompts, trajectories, components))
        texts = experiment.texts(trajectories)
        count = len(texts) // size
        rows = [row for row in np.flatnonzero(is_there_N).tolist() if row < count * len(examples)]
        remarks = experiment.reward.explain(
            experiment.frozen, [examples[row // count] for row in rows], [texts[row] for row in rows]
        )
        found: list[list[Sample]] = [[] for _ in examples]
        for row, remark in zip(rows, remarks, strict=True):
            own = {name: float(values[row]) for name, values in terms.items()}
            sample = Sample(texts[row], remark, float(log_pf[row]), float(log_r[row]), own)
            found[row // count].append(sample)
        for example, samples in zip(examples, found, strict=True):
            yield example, sorted(samples, key=lambda sample: -sample.log_pf)

    def _encode(self, examples: Sequence[Any]) -> Prompts:
        """Prompts in one of the run's buckets or, those that are longer, in all the room that the model has."""
        experiment = self._experiment
        config = experiment.config
        rows = experiment.tokenizer.encode_prompts([experiment.task.prompt(example) for example in examples])
        room = experiment.structure.architecture.context - config.sampling.max_len
        prompts = pad_to_bucket(rows, (*config.data.prompt_buckets, room), max(map(len, rows)))
        return experiment.rows.place(prompts)


def _rows(task: Task, example: Any, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """An object for each sample, named as in a run's samples.jsonl; a figure that is not finite is null."""
    for sample in samples:
        figures = {"log_pf": sample.log_pf, "log_r": sample.log_r, **sample.components}
        yield {
            "prompt": task.prompt(example),
            **task.describe(example),
            "continuation": sample.text,
            **sample.remarks,
            **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        }


def _table(prompt: str, samples: Sequence[Sample]) -> Table:
    table = Table(title=Text(prompt))
    for heading in ("continuation", *(samples[0].remarks if samples else ()), "log π", "log R"):
        table.add_column(heading.replace("_", " "))
    for sample in samples:
        said = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in sample.remarks.values()]
        table.add_row(Text(sample.text.strip()), *map(Text, said), f"{sample.log_pf:.2f}", f"{sample.log_r:.2f}")
    return table
