"""What the commands of a trained run print."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gfn_jax.api import open_run
from gfn_jax.evaluation.judged_texts import RUNS_OWN, Judges
from gfn_jax.evaluation.samples import Sample
from gfn_jax.policies import Policy
from gfn_jax.runs.opened import BEST
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks import Task
from gfn_jax.text.prompts import parse_object, read_lines

_STANDARD_INPUT = "/dev/stdin"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which continuations: how many of each prompt, by which method of decoding, of which checkpoint's policy."""

    count: int = 8
    method: str = "GFlowNet"
    temperature: float = 1.0
    seed: int = 0
    checkpoint: str = BEST


class _Given(NamedTuple):
    """Examples, and words for where each stands: empty where the flags name it."""

    examples: list[Any]
    places: list[str]


def print_samples(
    workdir: Path,
    fields: Mapping[str, str | None],
    file: str,
    wanted: Wanted,
    console: Console,
    *,
    as_json: bool,
    overrides: Sequence[str] = (),
    trust_code: bool = False,
) -> None:
    """Prints continuations of the example with these `fields`, or of those in a `file`, as soon as they are drawn.

    They are tables or, alone on the standard output, JSON lines. Raises `UserError` as `open_run` and `Run.sample` do.
    """
    with open_run(workdir, wanted.checkpoint, overrides=overrides, trust_code=trust_code) as run:
        run.method(wanted.count, wanted.method, wanted.temperature)  # before anything is read
        given = _read(run.task, file, fields) if file else _Given([run.task.check_example(fields)], [""])
        found = run.stream(
            given.examples,
            wanted.count,
            method=wanted.method,
            temperature=wanted.temperature,
            seed=wanted.seed,
            places=given.places,
        )
        _print_account(run, Console(stderr=True) if as_json else console)
        for example, samples in found:
            if as_json:
                for row in _rows(run.task, example, samples):
                    console.out(json.dumps(row, ensure_ascii=False), highlight=False)
            else:
                console.print(_samples_table(run.task.prompt(example), samples))


def print_evaluation(
    policy: Policy,
    samples: int,
    prompts: int | None,
    names: Sequence[str],
    candidates: int,
    console: Console,
    judges: Judges = RUNS_OWN,
) -> None:
    """Compares the methods with these names, or all (`Policy.evaluate`), prints their table, and closes the policy."""
    with policy:
        evaluation = policy.evaluate(
            samples, prompts=prompts, methods=names, candidates=candidates, judges=judges, progress=console
        )
        _print_account(policy, console)
    console.print(evaluation)
    written = [policy.workdir / name for name in ("evaluation.json", "report.html")]
    files = " and ".join(str(file) for file in written if file.exists())
    console.print(f"all figures are in {files}; {evaluation.seconds:.0f} s in all", soft_wrap=True)


def _print_account(policy: Policy, console: Console) -> None:
    for line in policy.account:
        console.print(line, soft_wrap=True)


def _read(task: Task, file: str, fields: Mapping[str, str | None]) -> _Given:
    """The examples of a file, one a line: a JSON object with the task's fields, or just a prompt where that is all."""
    if named := [f"--{name}" for name, value in fields.items() if value is not None]:
        raise UserError(f"--input names the examples: leave out {' and '.join(named)}")
    path = _STANDARD_INPUT if file == "-" else file
    given = _Given([], [])
    for number, line in read_lines(path, "--input"):
        place = f"--input: {path} line {number}"
        is_prompt = task.fields == ("prompt",) and not line.startswith("{")
        found = {"prompt": line} if is_prompt else parse_object(place, line)
        given.examples.append(task.parse_example(place, found))
        given.places.append(place)
    return given


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


def _samples_table(prompt: str, samples: Sequence[Sample]) -> Table:
    table = Table(title=Text(prompt))
    for heading in ("continuation", *(samples[0].remarks if samples else ()), "log π", "log R"):
        table.add_column(heading.replace("_", " "))
    for sample in samples:
        said = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in sample.remarks.values()]
        table.add_row(Text(sample.text.strip()), *map(Text, said), f"{sample.log_pf:.2f}", f"{sample.log_r:.2f}")
    return table
