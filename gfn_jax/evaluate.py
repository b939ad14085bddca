"""Compares a trained policy with the decoding baselines of its frozen model, on the validation examples.

python -m gfn_jax.evaluate --workdir runs/NAME [--n 8] [--prompts 100] [--methods "GFlowNet,sampling,beam 8"]
    [--override mesh.data=4]
"""

from pathlib import Path

from absl import flags

from gfn_jax.config import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory", required=True)
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
_METHODS = flags.DEFINE_list("methods", [], "names of methods, as the table has them; all by default")
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
    from rich.console import Console

    from gfn_jax.evaluation.judged_texts import Judges
    from gfn_jax.terminal import print_evaluation

    judges = Judges(_EMBEDDING_MODEL.value, _SENTENCE_MODEL.value, _SENTENCE_LABEL.value, _SECOND_JUDGE.value)
    print_evaluation(
        Path(_WORKDIR.value),
        _N.value,
        _PROMPTS.value,
        _METHODS.value,
        _CANDIDATES.value,
        Console(),
        judges,
        _CHECKPOINT.value,
        _OVERRIDE.value,
        trust_code=_TRUST_CODE.value,
    )


if __name__ == "__main__":
    command_line.run(main)
