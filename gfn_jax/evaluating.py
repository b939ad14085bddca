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

from gfn_jax.errors import UserError
from gfn_jax.evaluation.comparison import Compared, compare
from gfn_jax.evaluation.decoding import Method, all_methods
from gfn_jax.evaluation.intervals import bootstrap_interval
from gfn_jax.experiment import Examples
from gfn_jax.run_files import replace_file
from gfn_jax.runtime.run_directory import check_data
from gfn_jax.trained_run import open_run, read_finished_config

_COLUMNS = {  # of the terminal's table: figure -> heading; those that a task does not have are left out
    "log_likelihood": "log p",
    "log_r": "log R",
    "contradiction_rate": "contradict",
    "diversity": "diversity",
    "log_ratio_var": "variance",
}


def evaluate(workdir: Path, samples: int, prompts: int | None, names: Sequence[str], console: Console) -> None:
    """Measures the methods with these names, or all; prints a table and leaves all figures in `evaluation.json`.

    Raises `UserError` where the run has no checkpoint, or its data has changed, or there is no such method.
    """
    if samples < 2:
        raise UserError(f"--n {samples}: a prompt needs 2 samples or more")
    config = read_finished_config(workdir)
    methods = _choose(all_methods(samples, config.reward.temperature_end), names)
    examples = Examples.load(config)
    check_data(workdir, examples.sha256())
    chosen = examples.validation[:prompts]
    started = time.perf_counter()
    with open_run(workdir, config) as run:
        measured = compare(run.experiment, run.snapshot.state.adapter, chosen, methods, samples)
        shown = track(
            measured, "measuring", len(methods), console=console, disable=not console.is_terminal, transient=True
        )
        results = list(shown)
        for line in run.damaged:
            console.print(line, soft_wrap=True)
        step = run.snapshot.step
    console.print(_table(results, len(chosen), samples))
    _write(workdir / "evaluation.json", results, {"step": step, "prompts": len(chosen), "samples_per_prompt": samples})
    took = time.perf_counter() - started
    console.print(f"all figures are in {workdir / 'evaluation.json'}; {took:.0f} s in all", soft_wrap=True)


def _choose(methods: list[Method], names: Sequence[str]) -> list[Method]:
    known = {method.name: method for method in methods}
    if strange := [name for name in names if name not in known]:
        raise UserError(f"--methods: there is no method {strange[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in names] or methods


def _table(results: Sequence[Compared], prompts: int, samples: int) -> Table:
    table = Table(
        title=f"{prompts} validation prompts, {samples} continuations each: means and half their 95% intervals",
        caption="log p: frozen model's; variance: of log R - log π within a prompt; s: without compiling",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    names = [name for name in _COLUMNS if any(name in result.per_prompt for result in results)]
    table.add_column("method", no_wrap=True)
    for name in names:
        table.add_column(_COLUMNS[name], justify="right", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for result in results:
        cells = [_cell(result.per_prompt[name]) if name in result.per_prompt else "" for name in names]
        table.add_row(result.name, *cells, f"{result.seconds:.1f}")
    return table


def _cell(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.2f}±{(high - low) / 2:.2f}"


def _write(file: Path, results: Sequence[Compared], about: dict[str, int]) -> None:
    methods = [
        {
            "name": result.name,
            "seconds": result.seconds,
            "figures": {name: _figure(values) for name, values in result.per_prompt.items()},
            "texts": result.texts,
        }
        for result in results
    ]
    replace_file(file, json.dumps(about | {"methods": methods}, indent=2, ensure_ascii=False) + "\n")


def _figure(values: np.ndarray) -> dict[str, Any]:
    low, high = bootstrap_interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high, "per_prompt": values.tolist()}
