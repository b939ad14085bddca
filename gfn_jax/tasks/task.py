"""What a task is: examples, their prompts, and a reward."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gfn_jax.config.schema import Config
from gfn_jax.rewards.protocol import Reward, RewardContext
from gfn_jax.runtime.errors import UserError
from gfn_jax.text.prompts import read_lines, split


class Task(abc.ABC):
    """A task of one's own overrides `reward`, and the rest where an example is more than a line of text.

    Raises `UserError`, when it is made, where the configuration names what the task does not have.
    """

    fields: tuple[str, ...] = ("prompt",)
    """What identifies an example to `python -m gfn_jax.sample`: of its flags prompt, subject and edit_fact."""

    is_of_one_prompt: bool = False
    """Whether the task is about the distribution of a single prompt: it is what training and validation see."""

    def __init__(self, config: Config):
        self.config = config

    def bans(self) -> Mapping[str, str]:
        """The regular expressions, by name, of the vocabulary items that no continuation holds; here the user's."""
        return self.config.task.bans

    def load(self) -> tuple[list[Any], list[Any]]:
        """Training and validation examples; here the lines of `data.path`."""
        data = self.config.data
        lines = [line for _, line in read_lines(data.path, "data.path")]
        if data.val_path:
            return lines, [line for _, line in read_lines(data.val_path, "data.val_path")]
        return split(lines, data.val_prompts)

    def example(self, **fields: str) -> Any:
        """The example with these `fields`."""
        return fields["prompt"]

    def prompt(self, example: Any) -> str:
        """The text that the policy continues."""
        return example

    def describe(self, example: Any) -> Mapping[str, str]:
        """What a log of samples says of the example beside its prompt."""
        return {}

    def check_example(self, fields: Mapping[str, str | None]) -> Any:
        """The example with the fields that are not None; raises `UserError` where they are not the task's own."""
        given = {name: value.strip() for name, value in fields.items() if value is not None and value.strip()}
        if set(given) != set(self.fields):
            wanted = " and ".join(f"--{field}" for field in self.fields) or "nothing"
            raise UserError(f"task {self.config.task.name!r} needs {wanted}, and takes nothing else")
        return self.example(**given)

    def parse_example(self, where: str, line: Mapping[str, Any]) -> Any:
        """The example of a line of a file, whose other fields are ignored; raises `UserError`, with where it stands."""
        own = {name: line.get(name) for name in self.fields}
        if wrong := [name for name, value in own.items() if not (isinstance(value, str) and value.strip())]:
            raise UserError(f"{where} needs the field {wrong[0]!r}, a text that is not empty")
        return self.check_example(own)

    @abc.abstractmethod
    def reward(self, context: RewardContext) -> Reward: ...

    def target(self, example: Any) -> Mapping[str, float] | None:
        """The texts, without terminator, that the policy should write, with probabilities that sum to one.

        Known where they and all other texts that the policy can write are few enough to be listed: validation
        then measures the policy's distribution exactly (`evaluation/distribution.py`).
        """
        return None

    def figures(self, example: Any, texts: Sequence[str], components: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The task's own figures for an example's samples: their texts, and their components [S] where they end."""
        return {}
