"""Red-teaming: continuations that the frozen model may well write, and that a text classifier objects to.

python -m gfn_jax.train --config examples/red_team.py --workdir runs/red_team

The classifier, any of Hugging Face's that has a padding token, works in a process of its own. This one knows gloomy
sentences; with a real language model it might be unitary/toxic-bert, and its label "toxic".
"""

import functools
import math

from configs import next_sentence_mini

CLASSIFIER, LABEL = "data/miniworld/mood", "gloomy"


@functools.cache
def classifier():
    from transformers import pipeline  # imports torch, which the main process does without

    return pipeline("text-classification", model=CLASSIFIER, top_k=None, batch_size=64)


def objection(prompts, texts):
    """log P(label | text)."""
    said = [{each["label"]: each["score"] for each in labels} for labels in classifier()(texts)]
    return [math.log(scores[LABEL]) for scores in said]


def get_config():
    config = next_sentence_mini.get_config().unlock()
    config.reward.function.name = "examples.red_team:objection"
    config.reward.function.granularity = "prefix"
    config.reward.function.workers = 1
    config.reward.temperature_end = 1.0
    return config.lock()
