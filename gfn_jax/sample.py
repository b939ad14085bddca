"""Samples continuations of a prompt from a trained policy.

python -m gfn_jax.sample --workdir runs/NAME --prompt "..." [--n 8] [--seed 0]
"""

from pathlib import Path

from absl import flags

from gfn_jax import commands

_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory", required=True)
_PROMPT = flags.DEFINE_string("prompt", None, "the text to continue", required=True)
_N = flags.DEFINE_integer("n", 8, "how many continuations", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "of the random numbers", lower_bound=0)


def main() -> None:
    from rich.console import Console

    from gfn_jax.sampling import sample_table

    Console().print(sample_table(Path(_WORKDIR.value), _PROMPT.value.strip(), _N.value, _SEED.value))


if __name__ == "__main__":
    commands.run(main)
