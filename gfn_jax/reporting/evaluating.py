"""A trained policy beside the decoding baselines of its frozen model, on the validation examples."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gfn_jax.evaluation.comparison import Compared, compare
from gfn_jax.evaluation.intervals import mean_of
from gfn_jax.evaluation.judged_texts import RUNS_OWN, Judges, judged_figures
from gfn_jax.evaluation.methods import Resampling, all_methods, choose
from gfn_jax.experiment.examples import Examples
from gfn_jax.reporting.page import write_report
from gfn_jax.runs.directory import check_data
from gfn_jax.runs.opened import BEST, open_run, read_finished_config
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.json_files import finite, replace_file
from gfn_jax.runtime.machine import describe_machine

_COLUMNS = {  # of the terminal's table: figure -> heading; those that a task does not have are left out
    "log_likelihood": "log p",
    "log_r": "log R",
    "contradiction_rate": "contradict",
    "discriminates": "discrim.",
    "second_judge_contradiction_rate": "2nd judge",
    "diversity": "diversity",
    "own_log_ratio_var": "variance",
}
_INSTEAD_OF = {"discriminates": "log_r", "second_judge_contradiction_rate": "own_log_ratio_var"}
"""Columns that stand in another's place, so that a table fits 80 characters."""


def evaluate(
    workdir: Path,
    samples: int,
    prompts: int | None,
    names: Sequence[str],
    candidates: int,
    console: Console,
    judges: Judges = RUNS_OWN,
    checkpoint: str = BEST,
    overrides: Sequence[str] = (),
    *,
    trust_task: bool = False,
) -> None:
    """Measures the methods with these names, or all; prints a table and leaves all figures in `evaluation.json`.

    The reference is drawn from as many `candidates` of the frozen model's for each prompt; without any there is none.
    What models say of the texts is measured where `judges` or the configuration name them. `overrides` are of
    `read_finished_config`.

    Raises `UserError` where the run has no checkpoint, or its data has changed, or there is no such method.
    """
    if samples < 2:
        raise UserError(f"--n {samples}: a prompt needs 2 samples or more")
    config = read_finished_config(workdir, overrides, trust_task=trust_task)
    every = [*all_methods(samples, config.reward.temperature_end), *([Resampling(candidates)] if candidates else [])]
    methods = choose(every, names, "--methods") or every
    examples = Examples.load(config)
    check_data(workdir, examples.sha256())
    chosen = examples.validation[:prompts]
    started = time.perf_counter()
    with judged_figures(judges, config) as text_figures, open_run(workdir, config, checkpoint) as run:
        measured = compare(run.experiment, run.snapshot.state.adapter, chosen, methods, samples, text_figures)
        shown = track(
            measured, "measuring", len(methods), console=console, disable=not console.is_terminal, transient=True
        )
        results = list(shown)
        for line in run.account:
            console.print(line, soft_wrap=True)
        about = {
            "step": run.snapshot.step,
            "checkpoint": run.reason,
            "prompts": len(chosen),
            "samples_per_prompt": samples,
            "candidates": candidates,
            "judges": judges._asdict(),
            "machine": describe_machine(),
        }
    console.print(_table(results, len(chosen), samples))
    file = workdir / "evaluation.json"
    _write(file, results, about)
    took = time.perf_counter() - started
    console.print(f"all figures are in {file} and {write_report(workdir)}; {took:.0f} s in all", soft_wrap=True)


def _table(results: Sequence[Compared], prompts: int, samples: int) -> Table:
    there = {name for result in results for name in result.per_prompt}
    left_out = {other for name, other in _INSTEAD_OF.items() if name in there}
    names = [name for name in _COLUMNS if name in there - left_out]
    variance = "variance: of log R - log π over own samples of a prompt; " if "own_log_ratio_var" in names else ""
    table = Table(
        title=f"{prompts} validation prompts, {samples} continuations each: means and half their 95% intervals",
        caption=f"log p: frozen model's; {variance}s: without compiling",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    for name in names:
        table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for result in results:
        own = {name: mean_of(result.per_prompt[name]).in_short for name in names if name in result.per_prompt}
        table.add_row(result.method.name, *(own.get(name, "") for name in names), f"{result.seconds:.1f}")
    return table


def _write(file: Path, results: Sequence[Compared], about: dict[str, Any]) -> None:
    methods = [
        {
            "name": result.method.name,
            "family": result.method.family,
            "setting": result.method.setting,
            "seconds": result.seconds,
            "figures": {name: _figure(values) for name, values in result.per_prompt.items()},
            "texts": result.texts,
        }
        for result in results
    ]
    content = finite(about | {"methods": methods})
    replace_file(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _figure(values: np.ndarray) -> dict[str, Any]:
    return {**mean_of(values)._asdict(), "per_prompt": values.tolist()}
