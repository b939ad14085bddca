"""Samples continuations of prompts from a trained policy, or by another way of decoding.

python -m gfn_jax.sample --workdir runs/NAME --prompt "..." [--n 8] [--temperature 0.7] [--seed 0]
python -m gfn_jax.sample --workdir runs/NAME --subject "..." --edit_fact "..." [--method "beam 8"]
python -m gfn_jax.sample --workdir runs/NAME --input prompts.txt --json > samples.jsonl

Each continuation comes with log π, its log-probability under the trained policy, whatever drew it, and with log R;
those of a prompt are sorted by log π.

A line of --input is a JSON object with the example's fields ("subject" and "edit_fact", or "prompt"), whose other
keys are ignored. Where a prompt is all that an example is, a line that does not begin with { is a prompt.
"""

from pathlib import Path

from absl import flags

from gfn_jax.config import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory", required=True)
_FIELDS = (
    flags.DEFINE_string("prompt", None, "next_sentence: the text to continue"),
    flags.DEFINE_string("subject", None, "contradiction: whom or what the fact is about"),
    flags.DEFINE_string("edit_fact", None, "contradiction: the fact that an answer should contradict"),
)
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "a file of examples, one a line, instead of --prompt, or --subject and --edit_fact; - is the standard input",
)
_N = flags.DEFINE_integer("n", 8, "how many continuations of each prompt; greedy has one", lower_bound=1)
_METHOD = flags.DEFINE_string(
    "method",
    "GFlowNet",
    "how they are drawn: GFlowNet (the trained policy), or from the frozen model as gfn_jax.evaluate does, such as "
    "sampling, temperature 0.7, nucleus 0.95, greedy or, with --n 8, beam 8 and diverse beam 8; an unknown name lists "
    "them all",
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "for GFlowNet and sampling: at which they draw; log π stays the policy's own"
)
_JSON = flags.DEFINE_bool(
    "json", False, "print nothing but JSON lines, one for each continuation, with all terms of log R"
)
_OVERRIDE = flags.DEFINE_multi_string("override", [], command_line.OVERRIDE)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "whose policy: best (by the figure train.keep_best), last, or a step"
)
_SEED = flags.DEFINE_integer("seed", 0, "of the random numbers", lower_bound=0)
_TRUST_CODE = flags.DEFINE_bool("trust_code", False, command_line.TRUST_CODE)


def main() -> None:
    from gfn_jax.config.reading import read_run_config
    from gfn_jax.rewards.judging import import_ahead

    import_ahead(read_run_config(Path(_WORKDIR.value)).reward)

    from rich.console import Console

    from gfn_jax.terminal import Wanted, print_samples

    fields = {flag.name: flag.value for flag in _FIELDS}
    wanted = Wanted(_N.value, _METHOD.value, _TEMPERATURE.value, _SEED.value, _CHECKPOINT.value)
    print_samples(
        Path(_WORKDIR.value),
        fields,
        _INPUT.value or "",
        wanted,
        Console(),
        as_json=_JSON.value,
        overrides=_OVERRIDE.value,
        trust_code=_TRUST_CODE.value,
    )


if __name__ == "__main__":
    command_line.run(main)
