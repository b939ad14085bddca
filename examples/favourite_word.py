"""A task of one's own: a next sentence that is likely, and likelier if it holds a certain word.

python -m gfn_jax.train --config examples/favourite_word.py --workdir runs/word --config.task.options.word=sea
"""

from configs import next_sentence_mini
from gfn_jax.rewards.likelihood import LikelihoodReward
from gfn_jax.rewards.state_texts import state_texts
from gfn_jax.tasks.next_sentence import NextSentence


class WordReward(LikelihoodReward):
    def __init__(self, context):
        super().__init__(context)
        self.context, self.options = context, context.config.task.options

    def components(self, frozen, examples, prompts, trajectories):
        states = state_texts(self.context, trajectories, self.granularity)
        has_word = [self.options["word"] in text for text in states.texts]
        likelihood = super().components(frozen, examples, prompts, trajectories)
        return {**likelihood, "has_word": states.spread(has_word)}

    def combine(self, components, step):
        return super().combine(components, step) + self.options["bonus"] * components["has_word"]


class FavouriteWord(NextSentence):
    def reward(self, context):
        return WordReward(context)


def get_config():
    config = next_sentence_mini.get_config().unlock()
    config.task.name = "examples.favourite_word:FavouriteWord"
    config.task.options.word, config.task.options.bonus = "boat", 3.0
    config.reward.temperature_end = 1.0
    return config.lock()
