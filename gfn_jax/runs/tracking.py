"""Where a run's figures go: its files of JSON lines, Weights & Biases, and the terminal."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gfn_jax.config.schema import Config, Tracking
from gfn_jax.runs.directory import namespace, read_run_id
from gfn_jax.runtime import distributed
from gfn_jax.runtime.errors import ElsewhereError, TrainingError, UserError
from gfn_jax.runtime.faults import FaultWatch
from gfn_jax.runtime.formatting import decimals
from gfn_jax.runtime.json_files import JsonLines
from gfn_jax.runtime.progress import has_bars

_PLAIN_LINE_SECONDS = 10.0
_WANDB_TIMEOUT_S = 30.0
_SHOWN = {  # of a validation, in the terminal
    "contradiction_rate": "contradiction rate",
    "discriminates": "discriminates",
    "about_subject": "about the subject",
    "distinct_contradicting": "distinct",
    "kl": "KL to the target",
    "total_variation": "total variation",
    "invalid_mass": "mass off it",
    "mixture_log_ratio_var": "log-ratio variance, mixture",
    "elbo": "elbo",
    "log_r": "log R",
    "diversity": "diversity",
}


class Tracker:
    """Writes down a run's figures; those of a step are fetched while the next one runs.

    Of several processes the main one writes; the others only watch for faults, as it does.

    In a terminal a progress bar shows loss, log R and the time left, elsewhere a plain line every
    ten seconds does.
    """

    def __init__(self, config: Config, workdir: Path, restored: int | None, console: Console):
        """Goes on after the `restored` step, or begins."""
        start = -1 if restored is None else restored
        self._config, self._console = config, console
        self._metrics = self._samples = self._validation = self._distribution = self._wandb = None
        if distributed.is_main():
            self._metrics = JsonLines(workdir / "metrics.jsonl", after_step=start)
            self._samples = JsonLines(workdir / "samples.jsonl", after_step=start)
            self._validation = JsonLines(workdir / "validation.jsonl", after_step=start)
            self._distribution = JsonLines(workdir / "distribution.jsonl", after_step=start)
            self._wandb = _start_wandb(config, workdir, console)
        self._pending: tuple[int, Mapping[str, jax.Array], Sequence[Any], dict[str, float]] | None = None
        self._faults = FaultWatch(config.train.max_bad_steps)
        self._clock = time.monotonic()
        self._last_line: float | None = None
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  log R {task.fields[log_r]:.2f}  left"),
            TimeRemainingColumn(),
            console=console,
            disable=not has_bars(console),
        )
        self._bar = self._progress.add_task("", total=config.train.steps, completed=max(start, 0), loss=0.0, log_r=0.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
        self._progress.stop()
        for file in (self._metrics, self._samples, self._validation, self._distribution):
            if file is not None:
                file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)

    def log_step(
        self,
        step: int,
        metrics: Mapping[str, jax.Array],
        examples: Sequence[Any],
        **groups: Mapping[str, float],
    ) -> None:
        """Takes an update's metrics, unfetched, the examples it was for, and further figures by their group."""
        self.flush()
        further = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        self._pending = (step, metrics, examples, further)

    def flush(self) -> None:
        """Waits for the last update and writes down its metrics; raises `TrainingError` where faults persist."""
        if self._pending is None:
            return
        step, arrays, examples, further = self._pending
        self._pending = None
        fetched = jax.device_get(dict(arrays))
        is_skipped = bool(fetched["skipped"])
        try:
            bad_rows = self._faults.observe(step, fetched.pop("is_bad_N"), is_skipped=is_skipped, examples=examples)
        except TrainingError as error:
            if distributed.is_main():
                raise
            raise ElsewhereError(str(error), status=1) from error
        metrics = {name: float(value) for name, value in fetched.items()} | {"bad_rows": float(bad_rows)}
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        drawn = self._config.train.prompts_per_step * self._config.fresh_per_prompt
        metrics |= {"seconds": seconds, "trajectories_per_s": drawn / seconds}
        if step % self._config.train.log_every == 0:
            self._write(step, {f"train/{name}": value for name, value in metrics.items()} | further)
        self._progress.update(self._bar, completed=step, loss=metrics["loss"], log_r=metrics["log_r"])
        if self._last_line is None:  # the first step compiles: its time says nothing of the others'
            self._last_line = now
        elif not self._console.is_terminal and now - self._last_line > _PLAIN_LINE_SECONDS:
            self._last_line = now
            left = (self._config.train.steps - step) * seconds
            self._console.print(
                f"step {step}/{self._config.train.steps}  loss {metrics['loss']:.3f}  "
                f"log R {metrics['log_r']:.2f}  {seconds:.2f} s a step, about {left / 60:.0f} min left",
                soft_wrap=True,
            )

    def log_validation(
        self,
        step: int,
        figures: Mapping[str, float],
        per_prompt: Mapping[str, np.ndarray],
        probes: list[dict[str, Any]],
        distributions: list[dict[str, Any]],
    ) -> None:
        """Writes down a measurement, with samples and exact distributions; it takes no training time."""
        self._write(step, {f"val/{name}": value for name, value in figures.items()})
        of_prompts = {name: values.tolist() for name, values in per_prompt.items()}
        for file, rows in (
            (self._samples, probes),
            (self._validation, [{"per_prompt": of_prompts}]),
            (self._distribution, distributions),
        ):
            if file is not None:
                file.write(step, rows)
        if self._wandb is not None and probes:
            import wandb

            columns: Any = [name for name, value in probes[0].items() if not isinstance(value, list)]
            table = wandb.Table(columns=columns, data=[[probe[name] for name in columns] for probe in probes])
            self._wandb.log({"samples": table}, step=step)
        there = {label: figures[name] for name, label in _SHOWN.items() if name in figures}
        shown = (f"{label} {value:.{decimals([value])}f}" for label, value in there.items())
        self._console.print(f"step {step:>5}  validation: {'  '.join(shown)}", soft_wrap=True)
        self._clock = time.monotonic()

    def log_report(self, file: Path) -> None:
        """Shows an HTML file beside the run's figures."""
        if self._wandb is not None:
            import wandb

            self._wandb.log({"report": wandb.Html(file, inject=False)})

    def _write(self, step: int, figures: dict[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(step, [figures])
        if self._wandb is not None:
            self._wandb.log(figures, step=step)


def check_login(settings: Tracking) -> None:
    """Raises `UserError` where Weights & Biases is wanted online and nobody is logged in."""
    if settings.wandb == "online":
        import wandb

        if wandb.api.api_key is None:
            raise UserError(
                "tracking.wandb=online needs a login: run `wandb login`, or choose tracking.wandb=offline or disabled"
            )


def _start_wandb(config: Config, workdir: Path, console: Console) -> Any:
    """A run that goes on while its directory is the same run's; an offline one, to be synchronised later, where the
    server is not reached.
    """
    if config.tracking.wandb == "disabled":
        return None
    import wandb  # slow to import, so only where it is wanted

    settings = {
        "project": config.tracking.project,
        "name": workdir.name,
        "id": namespace(workdir, read_run_id(workdir)),
        "resume": "allow",
        "dir": str(workdir),
        "config": config.model_dump(mode="json"),
    }
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings["settings"] = wandb.Settings(init_timeout=_WANDB_TIMEOUT_S)
    try:
        return wandb.init(mode=config.tracking.wandb, **settings)
    except wandb.Error as error:
        message = " ".join(str(error).split())
        console.print(f"Weights & Biases is not reached ({message}); this run is tracked offline", soft_wrap=True)
        wandb.teardown()  # or the name is still in use
        return wandb.init(mode="offline", **settings)
