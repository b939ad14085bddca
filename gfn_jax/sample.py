"""Samples continuations of a prompt from a trained policy.

python -m gfn_jax.sample --workdir runs/NAME --prompt "..." [--n 8] [--seed 0]
python -m gfn_jax.sample --workdir runs/NAME --subject "..." --edit_fact "..." [--n 8] [--seed 0]
"""

from pathlib import Path

from absl import flags

from gfn_jax import commands

_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory", required=True)
_FIELDS = (
    flags.DEFINE_string("prompt", None, "next_sentence: the text to continue"),
    flags.DEFINE_string("subject", None, "contradiction: whom or what the fact is about"),
    flags.DEFINE_string("edit_fact", None, "contradiction: the fact that an answer should contradict"),
)
_N = flags.DEFINE_integer("n", 8, "how many continuations", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "of the random numbers", lower_bound=0)


def main() -> None:
    from rich.console import Console

    from gfn_jax.sampling import sample_table

    fields = {flag.name: flag.value for flag in _FIELDS}
    Console().print(sample_table(Path(_WORKDIR.value), fields, _N.value, _SEED.value))


if __name__ == "__main__":
    commands.run(main)
