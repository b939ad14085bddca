"""A trained policy, opened: it samples, scores, is compared with decoding, and exported.

What only some of the calls need, and is slow to import, is imported by them.
"""

import abc
import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import track

from gfn_jax.config.schema import Config
from gfn_jax.evaluation.comparison import Compared, compare
from gfn_jax.evaluation.judged_texts import RUNS_OWN, Judges, judged_figures
from gfn_jax.evaluation.methods import COLDEST, Method, Resampling, all_methods, choose
from gfn_jax.evaluation.results import Evaluation
from gfn_jax.evaluation.samples import Sample, Samples
from gfn_jax.experiment.examples import Examples
from gfn_jax.policy.behaviour import Behaviour
from gfn_jax.rewards.user_function import Function
from gfn_jax.runs.directory import check_data
from gfn_jax.runs.opened import TrainedRun, check_choice, read_finished_config
from gfn_jax.runs.opened import open_adapter as opened_adapter
from gfn_jax.runs.opened import open_run as opened
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.logs import leave_out_orbax
from gfn_jax.runtime.machine import describe_machine
from gfn_jax.runtime.progress import Progress, console_for, has_bars
from gfn_jax.tasks import Task, make_task

TEMPERED = ("GFlowNet", "sampling")
"""Methods that sample a model as it is, and so at any temperature."""


class Policy(abc.ABC):
    """A trained policy beside its frozen model: a context, which ends what was started for it.

    Its model is loaded when it is first needed; `workdir` is where its comparison with decoding is left.
    """

    def __init__(self, config: Config, workdir: Path):
        self.config, self.workdir = config, workdir
        self.task: Task = make_task(config)
        self._stack = contextlib.ExitStack()
        self._loaded: TrainedRun | None = None
        self._sampler: Samples | None = None

    @abc.abstractmethod
    def _open(self) -> contextlib.AbstractContextManager[TrainedRun]: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the reward's workers; the model is loaded again where it is used afterwards."""
        self._loaded = self._sampler = None
        self._stack.close()

    @property
    def step(self) -> int:
        """The optimiser steps that the policy was trained for."""
        return self._trained.snapshot.step

    @property
    def account(self) -> list[str]:
        """Lines that say which checkpoint this is, and why."""
        return self._trained.account

    def sample(
        self,
        prompts: Sequence[Any],
        n: int = 8,
        *,
        method: str = "GFlowNet",
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[list[Sample]]:
        """Continuations of each prompt, likeliest first.

        prompts      texts, or dicts of the task's fields, such as {"subject": ..., "edit_fact": ...}
        n            how many of each; fewer where masks leave no more
        method       GFlowNet, the trained policy, or how the frozen model is decoded: sampling,
                     "temperature 0.7", "nucleus 0.95", greedy, or, with n = 8, "beam 8"; of an unknown one the error
                     lists all
        temperature  of GFlowNet and sampling; `log_pf` is the policy's own whatever it is
        seed         of the random numbers

        Raises `UserError` where a prompt is none of the task's, or there is no such method.
        """
        found = self.stream(prompts, n, method=method, temperature=temperature, seed=seed)
        return [samples for _, samples in found]

    def stream(
        self,
        prompts: Sequence[Any],
        n: int = 8,
        *,
        method: str = "GFlowNet",
        temperature: float = 1.0,
        seed: int = 0,
        places: Sequence[str] | None = None,
    ) -> Iterator[tuple[Any, list[Sample]]]:
        """The same, with each prompt's example, as soon as they are drawn; `places` are what errors call them."""
        if isinstance(prompts, str | Mapping):
            raise UserError("sample takes a list of prompts: of a single one, [prompt]")
        if n < 1:
            raise UserError(f"n {n}: it must be 1 or more")
        chosen = self.method(n, method, temperature)
        if not prompts:
            return iter(())
        places = places or [f"prompts[{number}]" for number in range(len(prompts))]
        examples = [self._example(prompt, place) for prompt, place in zip(prompts, places, strict=True)]
        experiment = self._trained.experiment
        for place, example in zip(places, examples, strict=True):
            with _named(place):
                experiment.check_prompts([example], in_buckets=False)
        checks = [experiment.request_check([example]) for example in examples]

        def checked() -> None:
            for place, check in zip(places, checks, strict=True):
                with _named(place):
                    check()

        return self._samples.drawn(examples, chosen, seed, checked)

    def score(self, prompt: Any, texts: Sequence[str]) -> list[Sample]:
        """log π, log R and its terms of continuations of a prompt, in their order; see `sample` for the prompt.

        Raises `UserError` where a text is longer than the policy can write, or goes on after the terminator, and where
        the prompt leaves no room for one.
        """
        if isinstance(texts, str):
            raise UserError("score wants a list of texts")
        return self._samples.given(self._example(prompt, "the prompt"), texts) if texts else []

    def evaluate(
        self,
        n: int = 8,
        *,
        prompts: int | None = None,
        methods: Sequence[str] = (),
        candidates: int = 128,
        judges: Judges = RUNS_OWN,
        progress: Progress = False,
    ) -> Evaluation:
        """The policy beside other ways to decode its frozen model, on the validation examples.

        n           continuations of each prompt
        prompts     how many validation prompts, from the first; all by default
        methods     names of methods, such as "nucleus 0.9"; all by default
        candidates  how many samples of the frozen model the reference for each prompt is drawn from, in proportion to
                    R / p; 0: no reference
        judges      models that are asked about the texts besides

        Leaves all in the `evaluation.json` of `workdir`, and a run's in its report too. Raises `UserError` where there
        is no such method, or a run's data has changed.
        """
        if n < 2:
            raise UserError(f"n {n}: a prompt needs 2 samples or more")
        if prompts is not None and not (isinstance(prompts, int) and prompts > 0):
            raise UserError(f"prompts {prompts!r}: it is how many of the validation prompts, 1 or more")
        if isinstance(methods, str):
            raise UserError(f"methods takes a list of names: [{methods!r}]")
        config, console = self.config, console_for(progress)
        reference = [Resampling(candidates)] if candidates else []
        every = [*all_methods(n, config.reward.temperature_end, methods), *reference]
        chosen = choose(every, methods, "methods") or every
        task = make_task(config)
        examples = Examples.load(task, config.seed)
        self._check_data(examples)
        held_out = examples.validation[:prompts]
        started = time.perf_counter()
        with judged_figures(judges, config.reward, task) as text_figures:
            run = self._trained
            measured = compare(run.experiment, run.snapshot.state.adapter, held_out, chosen, n, text_figures)
            results = list(_shown(measured, len(chosen), console))
        evaluation = Evaluation(
            step=run.snapshot.step,
            checkpoint=run.reason,
            prompts=len(held_out),
            samples_per_prompt=n,
            candidates=candidates,
            judges=judges._asdict(),
            machine=describe_machine(),
            methods=results,
            seconds=time.perf_counter() - started,
        )
        self._keep(evaluation)
        return evaluation

    def _keep(self, evaluation: Evaluation) -> None:
        self.workdir.mkdir(parents=True, exist_ok=True)
        evaluation.write(self.workdir / "evaluation.json")

    def _check_data(self, examples: Examples) -> None:
        """Raises `UserError` where the examples are not those that the policy was held out from."""

    def method(self, n: int, name: str, temperature: float = 1.0) -> Method:
        """The method of decoding with this name; raises `UserError` where there is none, or it has no temperature."""
        if not COLDEST <= temperature < math.inf:
            raise UserError(f"temperature {temperature:g}: it must be {COLDEST:g} or more")
        count = 1 if name == "greedy" else n  # others would be the same text again
        (method,) = choose(all_methods(count, self.config.reward.temperature_end, [name]), [name], "method")
        if temperature == 1:
            return method
        if method.name not in TEMPERED:
            raise UserError(f"temperature is for {' or '.join(TEMPERED)}: leave it out for {method.name!r}")
        return dataclasses.replace(method, arguments=Behaviour(temperature, temperature, 1.0))

    @property
    def _trained(self) -> TrainedRun:
        if self._loaded is None:
            self._loaded = self._stack.enter_context(self._open())
        return self._loaded

    @property
    def _samples(self) -> Samples:
        if self._sampler is None:
            self._sampler = Samples(self._trained.experiment, self._trained.snapshot.state.adapter)
        return self._sampler

    def _example(self, prompt: Any, place: str) -> Any:
        if isinstance(prompt, str):
            if self.task.fields != ("prompt",):
                raise UserError(f"{place or 'the prompt'} must be a dict of {' and '.join(self.task.fields)}")
            prompt = {"prompt": prompt}
        if isinstance(prompt, list | bytes | int | float | None):
            raise UserError(f"{place or 'the prompt'} must be a text or a dict of the task's fields: it is {prompt!r}")
        return self.task.parse_example(place, prompt) if isinstance(prompt, Mapping) else prompt


class AdapterPolicy(Policy):
    """An adapter that no run here has trained."""

    def __init__(self, config: Config, adapter: str, workdir: Path):
        if (workdir / "config.json").exists():
            raise UserError(f"{workdir} holds a run: name another workdir for the comparison of {adapter}")
        super().__init__(config, workdir)
        self._adapter = adapter

    def _open(self) -> contextlib.AbstractContextManager[TrainedRun]:
        return opened_adapter(self.config, self._adapter)


class Run(Policy):
    """A run's directory, and the policy of one of its checkpoints."""

    def __init__(
        self, workdir: Path, checkpoint: str, overrides: Sequence[str], reward: Function | None, *, trust_code: bool
    ):
        leave_out_orbax()
        super().__init__(read_finished_config(workdir, overrides, trust_code=trust_code), workdir)
        check_choice(checkpoint, workdir / "checkpoints")
        self._checkpoint, self._reward = checkpoint, reward
        self._given = {"checkpoint": checkpoint, "overrides": overrides, "trust_code": trust_code, "function": reward}

    def export(
        self, out: str | Path, *, merged: bool = False, dtype: str = "float32", progress: Progress = False
    ) -> Path:
        """Writes the policy as a PEFT adapter, or `merged` as a whole Hugging Face model in `dtype`; where it is.

        Raises `UserError` where `out` is there already.
        """
        from gfn_jax.runs.hf_export import export_adapter, export_merged

        place, console = Path(out), console_for(progress)
        if merged:
            export_merged(self.workdir, place, dtype, console=console, **self._given)
        else:
            export_adapter(self.workdir, place, console=console, **self._given)
        return place

    def report(self) -> Path:
        """Makes the run's `report.html` again from the files in its directory; where it is."""
        from gfn_jax.reporting.page import write_report

        return write_report(self.workdir)

    def _open(self) -> contextlib.AbstractContextManager[TrainedRun]:
        return opened(self.workdir, self.config, self._checkpoint, self._reward)

    def _check_data(self, examples: Examples) -> None:
        check_data(self.workdir, examples.sha256())

    def _keep(self, evaluation: Evaluation) -> None:
        super()._keep(evaluation)
        self.report()


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}" if place else str(error)) from error


def _shown(measured: Iterator[Compared], count: int, console: Console) -> Iterator[Compared]:
    """The methods as they come: a bar in a terminal, elsewhere a line for each."""
    is_plain = not console.is_terminal
    bar = track(measured, "measuring", count, console=console, disable=not has_bars(console), transient=True)
    for number, each in enumerate(bar, start=1):
        if is_plain:
            console.print(f"{number} of {count}: {each.method.name}")
        yield each
