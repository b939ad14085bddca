"""Next-sentence continuation: one more sentence, as likely as the frozen model finds it.

log R(y ⊤ | x) = log p_frozen(y ⊤ | x) / temperature, at every prefix y (Hu et al. 2024, section 4.1).
"""

from pathlib import Path

from gfn_jax.config import Data
from gfn_jax.models.parts import ModelStructure
from gfn_jax.rewards.likelihood import LikelihoodReward
from gfn_jax.rewards.protocol import Reward
from gfn_jax.text.prompts import read_lines, split


class NextSentence:
    """An example is a prompt: one line of `data.path`."""

    granularity = LikelihoodReward.granularity

    def load(self, data: Data) -> tuple[list[str], list[str]]:
        """Training and validation examples."""
        return split(read_lines(Path(data.path)), data.val_prompts)

    def prompt(self, example: str) -> str:
        """The text that the policy continues."""
        return example

    def reward(self, structure: ModelStructure, terminator: int) -> Reward:
        return LikelihoodReward(structure, terminator)
