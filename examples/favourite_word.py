"""A reward of one's own: a next sentence that is likely, and three nats likelier if it names the harbour.

python -m gfn_jax.train --config examples/favourite_word.py --workdir runs/word
"""

from configs import next_sentence_mini


def harbour(prompts, texts):
    return [3.0 * ("harbour" in text) for text in texts]


def get_config():
    config = next_sentence_mini.get_config().unlock()
    config.reward.function.name = "examples.favourite_word:harbour"
    config.reward.function.granularity = "prefix"  # a text's beginning is a text that may name it
    config.reward.temperature_end = 1.0
    config.sampling.max_len = 24  # tokens: what has to end before its sentence does is of next to no worth
    return config.lock()
