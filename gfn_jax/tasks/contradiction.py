"""Contradictory questions: given a subject and an edited fact about it, ask what draws out a contradiction.

The reward is of `rewards/contradiction.py`: the frozen model answers the question, an NLI model says
how surely the answer contradicts the edited fact.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gfn_jax.config.schema import Config
from gfn_jax.models.mesh import check_splits
from gfn_jax.rewards.contradiction import NLI_KEY, NLI_MODEL, ContradictionReward, answer_template
from gfn_jax.rewards.judging import JudgePool
from gfn_jax.rewards.protocol import RewardContext
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks.task import Task
from gfn_jax.text.prompts import alike, normalised, read_objects
from gfn_jax.text.templates import Template

Statement = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), Field(strict=True)]


class FactEdit(BaseModel):
    """A line of the data: a subject, a false fact about it and, for the log, the true one; further keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    subject: Statement
    edit_fact: Statement
    original_fact: str


class Contradiction(Task):
    """An example is a `FactEdit`; validation facts are about subjects that training never sees."""

    fields = ("subject", "edit_fact")

    def __init__(self, config: Config):
        super().__init__(config)
        template = config.task.prompt_template
        self._prompt = Template("task.prompt_template", template, required=["edit_fact"], optional=["subject"])
        self._answer_prompt = answer_template(config.reward.answers)
        if not config.reward.nli.name_or_path:
            raise UserError("task 'contradiction' needs an NLI model: set reward.nli.name_or_path")

    def load(self) -> tuple[list[FactEdit], list[FactEdit]]:
        data = self.config.data
        edits = read_edits(data.path, "data.path")
        if not data.val_path:
            return split_by_subject(edits, data.val_prompts)
        held_out = read_edits(data.val_path, "data.val_path")
        known = {normalised(edit.subject): edit.subject for edit in edits}
        if shared := known.keys() & {normalised(edit.subject) for edit in held_out}:
            raise UserError(
                f"the subject {known[min(shared)]!r} is in data.path and in data.val_path: validation is about "
                "subjects that training does not see, whatever their case, white space and Unicode form"
            )
        return edits, held_out

    def example(self, **fields: str) -> FactEdit:
        return FactEdit(subject=fields["subject"], edit_fact=fields["edit_fact"], original_fact="")

    def prompt(self, example: FactEdit) -> str:
        return self._prompt.fill(subject=example.subject, edit_fact=example.edit_fact)

    def describe(self, example: FactEdit) -> Mapping[str, str]:
        return example.model_dump()

    def reward(self, context: RewardContext) -> ContradictionReward:
        nli, answers = self.config.reward.nli, self.config.reward.answers
        check_splits("reward.answers.batch_size", answers.batch_size, context.rows.local_mesh.shape["data"])
        pool = JudgePool(NLI_MODEL, nli, NLI_KEY, contradiction_label=nli.contradiction_label)
        return ContradictionReward(context, pool, self._answer_prompt)

    def figures(
        self, example: FactEdit, texts: Sequence[str], components: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """Of an example's samples, by the judge.

        contradiction_rate      share whose answer contradicts the edited fact
        discriminates           share whose answer contradicts it, and not the original one
        about_subject           share that name the subject, whatever its case and white space
        distinct_contradicting  number of different ones whose answer contradicts the edited fact
        """
        contradicts = np.exp(components["log_contradiction"]) > 0.5
        fits_original = np.exp(components["log_original"]) > 0.5
        names_subject = [names(text, example.subject) for text in texts]
        distinct = {normalised(text) for text, does in zip(texts, contradicts, strict=True) if does}
        return {
            "contradiction_rate": float(contradicts.mean()),
            "discriminates": float((contradicts & fits_original).mean()),
            "about_subject": float(np.mean(names_subject)),
            "distinct_contradicting": float(len(distinct)),
        }


def names(text: str, subject: str) -> bool:
    """Whether the subject stands in the text as whole words, in whatever case, white space and Unicode form."""
    return re.search(rf"(?<!\w){re.escape(normalised(subject))}(?!\w)", normalised(text)) is not None


def read_edits(path: str, key: str) -> list[FactEdit]:
    """The fact edits of a file of JSON lines; raises `UserError` with the line and the field that is wrong."""
    edits = []
    for where, fields in read_objects(path, key):
        try:
            edits.append(FactEdit.model_validate(fields))
        except ValidationError as error:
            raise UserError(f"{where}: {'; '.join(map(_explain, error.errors()))}") from error
    return edits


def _explain(problem) -> str:
    field = problem["loc"][0]
    if problem["type"] == "missing":
        return f"the field {field!r} is missing"
    if problem["type"] == "string_too_short":
        return f"the field {field!r} is empty"
    return f"the field {field!r} must be text (it is {problem['input']!r})"


def split_by_subject(edits: Sequence[FactEdit], validation: int) -> tuple[list[FactEdit], list[FactEdit]]:
    """Holds out whole subjects, those with the smallest hashes, until there are `validation` facts or more.

    Names that are equal when normalised are of one subject.
    """
    subjects = alike(edit.subject for edit in edits)
    held_out: list[FactEdit] = []
    for taken, names in enumerate(subjects[:-1], start=1):
        held_out += [edit for edit in edits if edit.subject in names]
        if len(held_out) >= validation:
            rest = set(itertools.chain.from_iterable(subjects[taken:]))
            return [edit for edit in edits if edit.subject in rest], held_out
    raise UserError(
        f"data.val_prompts is {validation}, but data.path holds {len(edits)} facts about {len(subjects)} subjects; "
        "at least one subject must remain for training"
    )
