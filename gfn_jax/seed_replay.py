"""Scores given continuations with a run's own reward, for its replay buffer.

python -m gfn_jax.seed_replay --workdir runs/NAME --pool pool.jsonl [--config configs/NAME.py ...]

A line of the pool is a JSON object with "continuation" and what names the example: "prompt", or
"subject" and "edit_fact". What is worth it is in the buffer when training starts, or goes on. With
--config the run may be a new one.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from gfn_jax.config import command_line

_CONFIG = config_flags.DEFINE_config_file("config", help_string="for a new run: a Python file with get_config()")
_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory", required=True)
_POOL = flags.DEFINE_string("pool", None, "a file of JSON lines", required=True)
_TRUST_CODE = flags.DEFINE_bool("trust_code", False, command_line.TRUST_CODE)


def main() -> None:
    from rich.console import Console

    from gfn_jax.config.reading import read_run_config
    from gfn_jax.tasks import check_is_own
    from gfn_jax.training.seeds import seed_replay

    workdir = Path(_WORKDIR.value)
    config = read_run_config(workdir) if _CONFIG.value is None else command_line.read_config_flag(_CONFIG)
    if _CONFIG.value is None and not _TRUST_CODE.value:
        check_is_own(config, workdir / "config.json")
    seed_replay(config, workdir, Path(_POOL.value), Console())


if __name__ == "__main__":
    command_line.run(main)
