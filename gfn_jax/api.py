"""What the package does, as calls: train a policy, or open one to sample, score, compare and export (`policies.py`).

The commands are thin callers of this. Nothing is printed unless it is asked for. What only some of the calls need,
and is slow to import, is imported by them.
"""

import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from gfn_jax.config.reading import parse_config
from gfn_jax.config.schema import Config
from gfn_jax.rewards.user_function import Function, name_of
from gfn_jax.runs.opened import BEST
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.logs import leave_out_orbax
from gfn_jax.runtime.progress import Progress, console_for

if TYPE_CHECKING:
    from gfn_jax.policies import Policy, Run
    from gfn_jax.training.loop import Trained


def load_config(source: str | Path | ConfigDict, /, **overrides: Any) -> Config:
    """The configuration in a Python file with `get_config()`, or in a ConfigDict, such as `gfn_jax.config.base.base()`.

    Overrides are dotted keys, with __ for the dots where they are written as arguments:
    `load_config("configs/quickstart.py", train__steps=20)`. Raises `UserError` where there is no such file, or a key or
    a value is wrong.
    """
    if isinstance(source, ConfigDict):
        raw = source.copy_and_resolve_references()
    else:
        try:
            raw = runpy.run_path(str(source))["get_config"]()
        except OSError as error:
            raise UserError(f"{source} cannot be read: {error.strerror}") from error
        except KeyError as error:
            raise UserError(f"{source} has no function get_config()") from error
    plain = raw.to_dict()
    for name, value in overrides.items():
        *sections, key = name.replace("__", ".").split(".")
        section = plain
        for each in sections:
            section = section.setdefault(each, {})
        section[key] = value
    return parse_config(plain)


def train(
    config: Config, workdir: str | Path, *, reward: Function | None = None, progress: Progress = False
) -> "Trained":
    """Trains in a new directory, or goes on where the last checkpoint of `workdir` ended.

    reward    a function of lists of prompts and texts, which gives a term of log R for each text, in nats, or several
              as a dict of such lists: added to the task's own reward (`reward.function` has its weights)
    progress  whether to print it

    Raises `UserError` for whatever can be mended in what is given, before anything is written, and `TrainingError`
    where training cannot go on.
    """
    if sys._getframe(1).f_globals.get("__name__") == "__mp_main__":  # what a spawned worker calls the user's script
        raise UserError('a script is imported by its workers too: train under `if __name__ == "__main__":`')
    _check_config(config)
    leave_out_orbax()
    if reward is not None:
        config = _with_function(config, reward)
    from gfn_jax.training.loop import train as train_in

    return train_in(config, Path(workdir), console_for(progress), reward)


def open_run(
    workdir: str | Path,
    checkpoint: str | int = BEST,
    *,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    reward: Function | None = None,
    trust_code: bool = False,
) -> "Run":
    """A run that has a checkpoint, on one device unless told otherwise; its model is loaded when it is first needed.

    checkpoint  "best" (by the figure `train.keep_best`), "last", or a step
    overrides   keys of its configuration that are others here, such as {"mesh.data": 4}
    reward      the function that it was trained with, where it cannot be imported
    trust_code  import the task and the reward function that the run names, which runs their code

    Raises `UserError` where there is no such run or checkpoint.
    """
    pairs = [f"{key}={value}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else overrides
    from gfn_jax.policies import Run

    return Run(Path(workdir), str(checkpoint), pairs, reward, trust_code=trust_code or reward is not None)


def open_adapter(config: Config, adapter: str, workdir: str | Path) -> "Policy":
    """A policy that is an adapter in PEFT's format over the configuration's frozen model.

    adapter  a Hugging Face directory or hub name
    workdir  where its comparison with decoding is left: no run's directory

    Raises `UserError` where it is one and, when it is first used, where the adapter is none of this model.
    """
    _check_config(config)
    from gfn_jax.policies import AdapterPolicy

    return AdapterPolicy(config, adapter, Path(workdir))


def _check_config(config: Any) -> None:
    if not isinstance(config, Config):
        raise UserError(f"a configuration is wanted, as gfn_jax.load_config(...) gives it: it is {config!r:.60}")


def _with_function(config: Config, function: Function) -> Config:
    reward = config.reward
    named = reward.model_copy(update={"function": reward.function.model_copy(update={"name": name_of(function)})})
    return parse_config(config.model_copy(update={"reward": named}).model_dump())
