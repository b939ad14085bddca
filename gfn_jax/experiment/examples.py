"""A task's examples: which are trained on, which are held out, and which step has which."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks import Task
from gfn_jax.text.prompts import indices_of_step, normalised

_AT_ONCE = 1024  # examples that are written down together


@dataclasses.dataclass(frozen=True)
class Examples:
    """A task's examples; `validation` is never trained on, unless the task is of one prompt."""

    train: list[Any]
    validation: list[Any]
    seed: int
    task: Task

    @classmethod
    def load(cls, task: Task, seed: int) -> "Examples":
        """Those of a task, in the order that a run's seed gives them.

        Raises `UserError` where the data is missing, empty or too little to split.
        """
        train, validation = task.load()
        if task.is_of_one_prompt:
            return cls(train, validation, seed, task)
        if len(validation) < 2:
            raise UserError("validation needs 2 examples or more; data.val_path holds 1")
        held_out = {normalised(prompt): prompt for prompt in map(task.prompt, validation)}
        for prompt in map(task.prompt, train):
            if (twin := held_out.get(normalised(prompt))) is not None:
                raise UserError(
                    "data.path and data.val_path share an example, whatever its case, white space and Unicode form: "
                    f"{prompt[:60]!r} and {twin[:60]!r}"
                )
        return cls(train, validation, seed, task)

    def sha256(self) -> str:
        """The hash of all examples in their order: of their prompts and what `describe` says of them."""
        digest = hashlib.sha256()
        for piece in self._json():
            digest.update(piece.encode())
        return digest.hexdigest()

    def _json(self) -> Iterator[str]:
        """What is hashed: one JSON text, in pieces."""
        encoder = json.JSONEncoder(sort_keys=True)
        for before, part in (("[[", self.train), ("], [", self.validation)):
            yield before
            for first in range(0, len(part), _AT_ONCE):
                some = part[first : first + _AT_ONCE]
                said = encoder.encode([(self.task.prompt(example), self.task.describe(example)) for example in some])
                yield (", " if first else "") + said[1:-1]
        yield "]]"

    def of_step(self, step: int, count: int) -> list[Any]:
        """The training examples of an optimiser step (from 0): a function of the seed and the step alone."""
        return [self.train[index] for index in indices_of_step(step, count, len(self.train), self.seed)]
