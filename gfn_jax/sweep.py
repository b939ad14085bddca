"""Trains policies to several end temperatures, and sets them beside the baselines: likelihood against diversity.

python -m gfn_jax.sweep --config configs/NAME.py [--config.key=value ...] --workdir runs/sweep
    --temperatures 0.8,0.85,0.9,0.95 [--seeds 0,1,2] [--n 8] [--prompts 100] [--override mesh.data=4]

Each run has a directory of its own in the workdir, trained and evaluated one after the other. A stopped sweep goes on
where it was; runs that were trained and evaluated by other means, under the same names, are taken as they are.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from gfn_jax.config import command_line

_CONFIG = config_flags.DEFINE_config_file("config", help_string="a Python file with get_config(), as in configs/")
_WORKDIR = flags.DEFINE_string("workdir", None, "the directory of all runs, made if it is not there", required=True)
_TEMPERATURES = flags.DEFINE_list("temperatures", None, "values of reward.temperature_end", required=True)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "values of seed")
_N = flags.DEFINE_integer("n", 8, "how many continuations of each prompt are compared", lower_bound=2)
_PROMPTS = flags.DEFINE_integer(
    "prompts", None, "how many validation prompts they are compared on, from the first; all by default", lower_bound=2
)
_OVERRIDE = flags.DEFINE_multi_string("override", [], command_line.OVERRIDE)


def main() -> None:
    from rich.console import Console

    from gfn_jax.config.overrides import with_overrides
    from gfn_jax.training.grid import sweep

    config = command_line.read_config_flag(_CONFIG)  # wrong keys are named before anything runs
    with_overrides(config, _OVERRIDE.value)
    flag = flags.FLAGS["config"]
    overrides = [f"--config.{key}={value}" for key, value in config_flags.get_override_values(flag).items()]
    training = ["--config", config_flags.get_config_filename(flag), *overrides]
    comparing = [f"--n={_N.value}", *([f"--prompts={_PROMPTS.value}"] if _PROMPTS.value else [])]
    comparing += [f"--override={each}" for each in _OVERRIDE.value]
    sweep(config, training, comparing, Path(_WORKDIR.value), _TEMPERATURES.value, _SEEDS.value, Console())


if __name__ == "__main__":
    command_line.run(main)
