"""Trains a policy, or goes on training the one in the workdir.

python -m gfn_jax.train --config configs/NAME.py [--config.key=value ...] --workdir runs/NAME

One process uses all of its machine's devices. Several, on one machine or on many, are started with the
same flags and a workdir that all of them see: by launch/, or each with --coordinator, --processes and --process_id.
"""

import contextlib
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from gfn_jax.config import command_line
from gfn_jax.runtime.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", help_string="a Python file with get_config(), as in configs/")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "one of several processes: HOST:PORT of process 0")
_PROCESSES = flags.DEFINE_integer("processes", None, "one of several processes: how many there are", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "one of several processes: which, from 0", lower_bound=0)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "whether this is one of several processes: auto is on with --coordinator, and where Slurm or Open MPI started "
    "several; on also finds the others on TPU pods and, with the package kubernetes, in Kubernetes",
)
_STATUS_IF_STOPPED = flags.DEFINE_integer(
    "status_if_stopped", 0, "the exit status where a signal stopped the run, which was saved, before its last step"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory, made if it is not there", required=True)


def main() -> None:
    from gfn_jax.rewards.judging import import_ahead

    with contextlib.suppress(UserError):  # it is said where all processes hear of it
        import_ahead(command_line.read_config_flag(_CONFIG).reward)

    from rich.console import Console

    from gfn_jax.api import train
    from gfn_jax.runtime import distributed
    from gfn_jax.runtime.startup import share_compiled

    if distributed.initialize(_DISTRIBUTED.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS_ID.value):
        command_line.end_alone()
        share_compiled(Path(_WORKDIR.value))
    with distributed.in_agreement():
        config = command_line.read_config_flag(_CONFIG)
    trained = train(config, _WORKDIR.value, progress=Console())
    if not trained.is_done:
        sys.exit(_STATUS_IF_STOPPED.value)


if __name__ == "__main__":
    command_line.run(main)
