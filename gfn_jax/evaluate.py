"""Compares a trained policy with the decoding baselines of its frozen model, on the validation examples.

python -m gfn_jax.evaluate --workdir runs/NAME [--n 8] [--prompts 100] [--methods "GFlowNet,sampling,beam 8"]
    [--override mesh.data=4]
python -m gfn_jax.evaluate --config configs/NAME.py --adapter DIR_OR_NAME [--workdir DIR] ...

The second form is of an adapter in PEFT's format that no run here has trained, such as a published one: with the
configuration's frozen model, reward, masks and data, of which the validation examples are used.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from gfn_jax.config import command_line
from gfn_jax.runtime.errors import UserError

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "the run's directory, or with --adapter where evaluation.json is left: by default in runs/"
)
_CONFIG = config_flags.DEFINE_config_file("config", help_string="with --adapter: a Python file, as for training")
_ADAPTER = flags.DEFINE_string(
    "adapter", "", "instead of a run's policy an adapter in PEFT's format, by hub name or directory"
)
_N = flags.DEFINE_integer("n", 8, "how many continuations of each prompt, 2 or more", lower_bound=2)
_PROMPTS = flags.DEFINE_integer(
    "prompts", None, "how many validation prompts, from the first; all by default", lower_bound=2
)
_CANDIDATES = flags.DEFINE_integer(
    "candidates",
    128,
    "how many samples of the frozen model the reference for each prompt is drawn from, in proportion to R / p; 0: none",
    lower_bound=0,
)
_METHODS = flags.DEFINE_list(
    "methods",
    [],
    "names of methods, as the table has them, or with settings of your own, such as nucleus 0.9; all by default",
)
_EMBEDDING_MODEL = flags.DEFINE_string(
    "embedding_model",
    "",
    "a model of sentence-transformers, by hub name or directory: how far apart its embeddings of a prompt's texts lie",
)
_SENTENCE_MODEL = flags.DEFINE_string(
    "sentence_model",
    "",
    "a text classifier, by hub name or directory: which texts it accepts; by default the run's "
    "reward.sentences.name_or_path, if any",
)
_SENTENCE_LABEL = flags.DEFINE_string(
    "sentence_label",
    "",
    "its label for what it accepts, by name or index; by default the run's reward.sentences.label",
)
_SECOND_JUDGE = flags.DEFINE_string(
    "second_judge",
    "",
    "an NLI model that the reward did not ask, by hub name or directory: what it says of the answers to the questions",
)
_OVERRIDE = flags.DEFINE_multi_string("override", [], command_line.OVERRIDE)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "whose policy: best (by the figure train.keep_best), last, or a step"
)
_TRUST_CODE = flags.DEFINE_bool("trust_code", False, command_line.TRUST_CODE)


def main() -> None:
    from gfn_jax.config.reading import read_run_config
    from gfn_jax.rewards.judging import import_ahead

    if _ADAPTER.value:
        workdir = Path(_WORKDIR.value or Path("runs", "adapters", Path(_ADAPTER.value).name))
        config = command_line.read_config_flag(_CONFIG)
    elif _WORKDIR.value:
        workdir = Path(_WORKDIR.value)
        config = read_run_config(workdir)
    else:
        raise UserError("--workdir is missing: name a run's directory, or an adapter with --adapter and --config")
    import_ahead(config.reward)

    from rich.console import Console

    from gfn_jax.api import open_adapter, open_run
    from gfn_jax.evaluation.judged_texts import Judges
    from gfn_jax.terminal import print_evaluation

    if _ADAPTER.value:
        policy = open_adapter(config, _ADAPTER.value, workdir)
    else:
        policy = open_run(workdir, _CHECKPOINT.value, overrides=_OVERRIDE.value, trust_code=_TRUST_CODE.value)
    judges = Judges(_EMBEDDING_MODEL.value, _SENTENCE_MODEL.value, _SENTENCE_LABEL.value, _SECOND_JUDGE.value)
    print_evaluation(policy, _N.value, _PROMPTS.value, _METHODS.value, _CANDIDATES.value, Console(), judges)


if __name__ == "__main__":
    command_line.run(main)
