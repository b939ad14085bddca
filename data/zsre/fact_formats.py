"""The published forms of fact edits: recognised by their keys, checked, and read as facts in words."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from fact_text import as_statement, clean
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from gfn_jax.runtime.errors import UserError


class Edit(NamedTuple):
    """A subject, a false fact about it, and the true ones."""

    subject: str
    edit_fact: str
    original_facts: tuple[str, ...]


def _with_words(text: str) -> str:
    if not as_statement(text):
        raise ValueError("is empty")
    return text


def _with_a_place(text: str) -> str:
    if "{}" not in text:
        raise ValueError("has no {} where the subject would stand")
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_with_words)]
Texts = Annotated[list[Text], Field(min_length=1), BeforeValidator(lambda it: [it] if isinstance(it, str) else it)]


class Prepared(BaseModel):
    """Facts as the contradiction task takes them."""

    subject: Text
    edit_fact: Text
    original_fact: Text

    def in_words(self) -> tuple[str, str, list[str]]:
        return self.subject, self.edit_fact, [self.original_fact]


class Question(BaseModel):
    """ZsRE of MEND and ROME: a question, the answer that is to be false, and the true ones."""

    subject: Text
    src: Text
    alt: Text
    answers: Texts

    def in_words(self) -> tuple[str, str, list[str]]:
        return self.subject, f"{self.src} {self.alt}", [f"{self.src} {answer}" for answer in self.answers]


class Completion(BaseModel):
    """ZsRE and CounterFact of EasyEdit: a statement's beginning, or a question, and what is to follow."""

    subject: Text
    prompt: Text
    target_new: Text
    ground_truth: Texts

    def in_words(self) -> tuple[str, str, list[str]]:
        return self.subject, f"{self.prompt} {self.target_new}", [f"{self.prompt} {it}" for it in self.ground_truth]


class _Target(BaseModel):
    str: Text


class _Rewrite(BaseModel):
    prompt: Annotated[Text, AfterValidator(_with_a_place)]
    subject: Text
    target_new: _Target
    target_true: _Target


class CounterFact(BaseModel):
    """CounterFact of ROME and MEMIT: a statement's beginning with {} for the subject, and what is to follow."""

    requested_rewrite: _Rewrite

    def in_words(self) -> tuple[str, str, list[str]]:
        wanted = self.requested_rewrite
        prompt = wanted.prompt.replace("{}", wanted.subject)
        return wanted.subject, f"{prompt} {wanted.target_new.str}", [f"{prompt} {wanted.target_true.str}"]


_FORMS = {  # by the keys that no other form has
    ("requested_rewrite",): CounterFact,
    ("edit_fact", "original_fact"): Prepared,
    ("src", "alt", "answers"): Question,
    ("target_new", "ground_truth"): Completion,
}


def read_edit(row: Mapping[str, Any], where: str) -> Edit:
    """The edit of a row of any form; raises `UserError`, beginning with `where`, with what is missing or wrong."""
    form = next((form for keys, form in _FORMS.items() if any(key in row for key in keys)), None)
    if form is None:
        known = "; ".join(", ".join(keys) for keys in _FORMS)
        raise UserError(f"{where} is of no known form: it has {', '.join(row) or 'no keys'}, and none of {known}")
    try:
        subject, edit, originals = form.model_validate(row).in_words()
    except ValidationError as error:
        raise UserError(f"{where}: {'; '.join(map(_explain, error.errors()))}") from error
    return Edit(clean(subject), as_statement(edit), tuple(map(as_statement, originals)))


def _explain(problem: Any) -> str:
    field = ".".join(map(str, problem["loc"]))
    if problem["type"] == "value_error":
        return f"{field} {problem['ctx']['error']}"
    wrong = {"missing": "is missing", "too_short": "is empty", "model_type": "must be an object"}
    return f"{field} {wrong.get(problem['type'], 'must be text')}"
