"""Makes an NLI model of three labels out of a text encoder, for reward.nli.name_or_path.

python data/fetch.py minilm
python data/nli/train_judge.py --encoder data/nli/encoder --pairs FILE [--pairs FILE2 ...] --out data/nli/judge

A FILE holds a premise, a hypothesis and a label on each line, with tabs between them (0 entailment, 1 neutral, 2
contradiction, or these names), or is SNLI's own .jsonl. Every tenth premise is held out, and the accuracy on its pairs
said at the end. Each pair is shown twice in an epoch: as it is, and with a capital and a full stop, as the facts
and answers of the contradiction task are written.

--half=first and --half=second make two judges that share no premise: one to train on, the other for `evaluate
--second_judge`, which shows how much of the first one's praise is its own whim. The same command goes on where it
was stopped, and comes to the same judge.
"""

from absl import flags

from gfn_jax.config import command_line
from gfn_jax.runtime.errors import UserError

_ENCODER = flags.DEFINE_string("encoder", None, "a Hugging Face directory or hub name of a text encoder")
_PAIRS = flags.DEFINE_multi_string("pairs", [], "a file of labelled pairs; may be given several times")
_OUT = flags.DEFINE_string("out", None, "where the judge is to be; there must be nothing yet")
_HALF = flags.DEFINE_enum("half", "both", ["both", "first", "second"], "the premises to train on")
_SEED = flags.DEFINE_integer("seed", 0, "of the order of the pairs, dropout and the new layer", lower_bound=0)
_EPOCHS = flags.DEFINE_float("epochs", 2.0, "how often the pairs are shown, twice each time", lower_bound=0.01)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "pairs in a step", lower_bound=1)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-4, "Adam's, at its highest", lower_bound=0)
_SAVE_EVERY = flags.DEFINE_integer("save_every", 100, "steps between two states to go on from", lower_bound=1)


def main() -> None:
    for name, value in (("--encoder", _ENCODER.value), ("--pairs", _PAIRS.value), ("--out", _OUT.value)):
        if not value:
            raise UserError(f"{name} is missing")
    import judge_training

    settings = judge_training.Settings(
        encoder=_ENCODER.value,
        pairs=tuple(_PAIRS.value),
        half=_HALF.value,
        seed=_SEED.value,
        epochs=_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
    )
    judge_training.train(settings, _OUT.value, _SAVE_EVERY.value)


if __name__ == "__main__":
    command_line.run(main)
