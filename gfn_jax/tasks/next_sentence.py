"""Next-sentence continuation: one more sentence, as likely as the frozen model finds it.

log R(y ⊤ | x) = log p_frozen(y ⊤ | x) / temperature, at every prefix y (Hu et al. 2024, section 4.1).
"""

from gfn_jax.config.schema import Config
from gfn_jax.rewards.likelihood import LikelihoodReward
from gfn_jax.rewards.protocol import Reward, RewardContext
from gfn_jax.tasks.task import Task
from gfn_jax.text.templates import Template


class NextSentence(Task):
    """An example is a prompt: one line of `data.path`."""

    def __init__(self, config: Config):
        super().__init__(config)
        self._prompt = Template("task.prompt_template", config.task.prompt_template, required=["prompt"])

    def prompt(self, example: str) -> str:
        return self._prompt.fill(prompt=example)

    def reward(self, context: RewardContext) -> Reward:
        return LikelihoodReward(context)
