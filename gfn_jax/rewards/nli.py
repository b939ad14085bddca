"""How sure an NLI model is that a hypothesis contradicts its premise. PyTorch, and so only ever in a worker."""

from collections.abc import Sequence
from typing import Any

from gfn_jax.rewards.classifier import Classifier
from gfn_jax.runtime.errors import UserError


class NLIModel(Classifier):
    """A classifier of pairs with a label for contradiction: -1 for the one whose name says so, or its index."""

    def __init__(self, name_or_path: str, contradiction_label: int, **settings: Any):
        label = "contradict" if contradiction_label < 0 else contradiction_label
        keys = ("reward.nli.name_or_path", "reward.nli.contradiction_label")
        super().__init__(name_or_path, label, **settings, keys=keys)

    def check_premises(self, premises: Sequence[str]) -> None:
        """Raises `UserError`, naming one, where a premise leaves less than half of the length to its hypothesis."""
        for premise in premises:
            tokens = len(self._tokenizer(premise)["input_ids"])
            if tokens > self._max_length // 2:
                raise UserError(
                    f"the fact {premise[:60]!r}... has {tokens} tokens of the NLI model's; at most half of "
                    f"its {self._max_length} may go to the fact (reward.nli.max_length)"
                )

    def log_contradiction(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float]]:
        """log P(contradiction) and log P(no contradiction) of (premise, hypothesis) pairs, in float32.

        A hypothesis that is too long is cut.
        """
        return self.log_probabilities_of_pairs(pairs)
