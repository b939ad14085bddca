"""Policies of several end temperatures and seeds, trained and compared one by one; then all of them in one frontier."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table

from gfn_jax.config.reading import differing_keys, read_run_config
from gfn_jax.config.schema import Config
from gfn_jax.evaluation.equal_diversity import AtEqualDiversity
from gfn_jax.evaluation.frontier import FAMILIES, POLICY, Row, Run, pooled, rows
from gfn_jax.runs.row_shapes import COMPARISON, checked
from gfn_jax.runtime.errors import TrainingError, UserError
from gfn_jax.runtime.json_files import finite, plain, read_json, replace_file

T = TypeVar("T")
_STOPPED = 3
_ASKED = "swept.json"
"""What a finished run was trained and compared by; with other flags it is trained on, and compared again."""


def sweep(
    config: Config,
    training: Sequence[str],
    comparing: Sequence[str],
    workdir: Path,
    temperatures: Sequence[str],
    seeds: Sequence[str],
    console: Console,
) -> None:
    """Runs every combination by the commands `train` and `evaluate` with these flags, but for those that are done.

    `config` is what the flags for training say, whatever its end temperature and seed.

    Prints the table of all, and leaves its figures in `frontier.json` and the plot in `frontier.png`. Raises
    `UserError` where a temperature or a seed is none, or a run that is there is of another configuration, or was
    compared on other prompts or without its policy; `TrainingError` where a command stops or fails.
    """
    from gfn_jax.reporting.frontier_plot import save_frontier  # draws, by what is slow to import

    chosen = _read_all("--temperatures", temperatures, float), _read_all("--seeds", seeds, int)
    places = {workdir / f"t{each:g}-seed{seed}": (each, seed) for seed in chosen[1] for each in chosen[0]}
    for number, (place, (temperature, seed)) in enumerate(places.items(), start=1):
        wanted = _of_run(config, temperature, seed)
        asked = {"config": wanted.model_dump(mode="json"), "flags": list(comparing)}
        if (place / "config.json").exists():
            _check_configuration(place, wanted)
        if (place / "evaluation.json").exists() and _read_asked(place) == asked:
            continue
        console.rule(f"run {number} of {len(places)}: {place}")
        own = [f"--config.reward.temperature_end={temperature}", f"--config.seed={seed}", f"--workdir={place}"]
        _run("train", f"--status_if_stopped={_STOPPED}", *training, *own)
        # The task is the one of the flags for training, or that would have refused the directory.
        _run("evaluate", f"--workdir={place}", "--trust_code", *comparing)
        replace_file(place / _ASKED, json.dumps(asked, indent=2) + "\n")
    evaluations = {place: _read_evaluation(place / "evaluation.json") for place in places}
    prompts, *others = {(each["prompts"], each["samples_per_prompt"]) for each in evaluations.values()}
    if others:
        raise UserError(
            f"the runs in {workdir} were not compared on the same prompts, or by as many samples: delete the "
            "evaluation.json of those that are to be compared again"
        )
    for place, each in evaluations.items():
        if POLICY not in {method["name"] for method in each["methods"]}:
            raise UserError(f"{place / 'evaluation.json'} has no method {POLICY}: delete it, to compare the run again")
    runs = [Run(*places[place], each["methods"]) for place, each in evaluations.items()]
    found = list(rows(runs))
    console.print(_table(found, *prompts))
    counts = {"prompts": prompts[0], "samples_per_prompt": prompts[1]}
    machines = {place.name: each["machine"] for place, each in evaluations.items()}
    about = {**counts, "flags": [*training, *comparing], "machines": machines}
    replace_file(
        workdir / "frontier.json",
        json.dumps(finite({**about, "rows": [plain(row) for row in found]}), indent=1) + "\n",
    )
    save_frontier(pooled(runs), workdir / "frontier.png")
    console.print(f"figures and plot are in {workdir / 'frontier.json'} and {workdir / 'frontier.png'}", soft_wrap=True)


def _read_evaluation(file: Path) -> dict[str, Any]:
    (evaluation,) = checked(file, COMPARISON, [read_json(file)])
    return evaluation


def _of_run(config: Config, temperature: float, seed: int) -> Config:
    reward = config.reward.model_copy(update={"temperature_end": temperature})
    return config.model_copy(update={"reward": reward, "seed": seed})


def _read_asked(place: Path) -> dict[str, Any] | None:
    """What a sweep before this one asked of the run, if any did."""
    return read_json(place / _ASKED) if (place / _ASKED).exists() else None


def _check_configuration(place: Path, wanted: Config) -> None:
    if keys := differing_keys(wanted, read_run_config(place)):
        raise UserError(
            f"{place} belongs to a run with another configuration; these keys differ: {', '.join(keys)}. "
            "Choose another --workdir, or set them as they were"
        )


def _read_all(flag: str, values: Sequence[str], kind: Callable[[str], T]) -> list[T]:
    if not values:
        raise UserError(f"{flag}: there is none")
    try:
        return [kind(value) for value in values]
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from error


def _run(command: str, *arguments: str) -> None:
    with (
        subprocess.Popen([sys.executable, "-m", f"gfn_jax.{command}", *arguments]) as running,
        _signals_left_to(running),
    ):
        status = running.wait()
    if status == _STOPPED:
        raise TrainingError("stopped; the same command goes on")
    if status:
        raise TrainingError(f"`gfn_jax.{command} {' '.join(arguments)}` ended with status {status}")


@contextlib.contextmanager
def _signals_left_to(running: subprocess.Popen) -> Iterator[None]:
    """Leaves Ctrl-C, which a terminal sends to both, and SIGTERM to the command that runs, which saves and stops."""
    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: running.terminate()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _table(found: Sequence[Row], prompts: int, samples: int) -> Table:
    table = Table(
        title=f"Log-likelihood at equal diversity: {prompts} prompts, {samples} continuations each",
        caption="of a policy and of baselines that are as diverse; gain: the policy's less theirs; outside: none is; "
        "95% over prompts, of all seeds over seeds too",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for heading in ("T end", "seed", "diversity", POLICY, *(part for family in FAMILIES for part in (family, "gain"))):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found:
        cells = [row.diversity.in_short, row.log_likelihood.in_short]
        cells += [part for each in row.beside.values() for part in _pair(each)]
        is_all = len(row.seeds) > 1
        seeds = "all" if is_all else str(row.seeds[0])
        table.add_row(f"{row.temperature:g}", seeds, *cells, style="bold" if is_all else "")
    return table


def _pair(beside: AtEqualDiversity | None) -> tuple[str, str]:
    return (beside.baseline.in_short, beside.difference.in_short) if beside else ("outside", "")
