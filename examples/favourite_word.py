"""A reward of one's own: a next sentence that is likely, and three nats likelier if there is a boat in it.

python -m gfn_jax.train --config examples/favourite_word.py --workdir runs/word
"""

from configs import next_sentence_mini


def boat(prompts, texts):
    return [3.0 * ("boat" in text) for text in texts]


def get_config():
    config = next_sentence_mini.get_config().unlock()
    config.reward.function.name = "examples.favourite_word:boat"
    config.reward.function.granularity = "prefix"  # a text's beginning is a text that may have a boat in it
    config.reward.temperature_end = 1.0
    return config.lock()
