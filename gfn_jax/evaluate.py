"""Compares a trained policy with the decoding baselines of its frozen model, on the validation examples.

python -m gfn_jax.evaluate --workdir runs/NAME [--n 8] [--prompts 100] [--methods "GFlowNet,sampling,beam 8"]
"""

from pathlib import Path

from absl import flags

from gfn_jax import commands

_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory", required=True)
_N = flags.DEFINE_integer("n", 8, "how many continuations of each prompt, 2 or more", lower_bound=1)
_PROMPTS = flags.DEFINE_integer(
    "prompts", None, "how many validation prompts, from the first; all by default", lower_bound=2
)

_METHODS = flags.DEFINE_list("methods", [], "names of methods, as the table has them; all by default")


def main() -> None:
    from rich.console import Console

    from gfn_jax.evaluating import evaluate

    evaluate(Path(_WORKDIR.value), _N.value, _PROMPTS.value, _METHODS.value, Console())


if __name__ == "__main__":
    commands.run(main)
