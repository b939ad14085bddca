"""Trains a policy, or goes on training the one in the workdir.

python -m gfn_jax.train --config configs/NAME.py [--config.key=value ...] --workdir runs/NAME
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from gfn_jax import commands

_CONFIG = config_flags.DEFINE_config_file("config", help_string="a Python file with get_config(), as in configs/")
_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory, made if it is not there", required=True)


def main() -> None:
    from rich.console import Console

    from gfn_jax.training import train

    train(commands.read_config_flag(_CONFIG), Path(_WORKDIR.value), Console())


if __name__ == "__main__":
    commands.run(main)
