"""What the rows of a run's files hold, as far as a report reads them: a run may be somebody else's, or an old one."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from gfn_jax.runtime.errors import UserError

Figure = Annotated[float, Field(strict=True, gt=-1e100, lt=1e100)] | None
"""A number, which may be missing; larger ones are no figure's, and more than can be drawn."""
Number = Annotated[float, Field(strict=True, gt=-1e100, lt=1e100)]
Step = Annotated[int, Field(strict=True, ge=0, lt=2**53)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _PerPrompt(_Row):
    step: Step
    per_prompt: Annotated[dict[str, list[Figure]], Field(min_length=1)]


class _Sample(_Row):
    step: Step
    prompt: str
    continuation: str
    log_r: Figure
    log_pf: Figure
    tokens: list[str] | None = None
    log_ratio: list[Figure] | None = None
    p_contradiction: Figure = None


class _Distribution(_Row):
    step: Step
    prompt: str
    outcomes: Annotated[list[str], Field(min_length=1)]
    policy: list[Number]
    target: list[Number]
    kl: Number
    total_variation: Number
    invalid_mass: Number

    @model_validator(mode="after")
    def _of_one_length(self) -> "_Distribution":
        if not len(self.outcomes) == len(self.policy) == len(self.target):
            raise ValueError("outcomes, policy and target are of different lengths")
        return self


class _Values(_Row):
    per_prompt: list[Figure]


class _Estimate(_Values):
    mean: Figure
    low: Figure
    high: Figure


class _Method(_Row):
    name: str
    family: str
    setting: Figure
    figures: dict[str, _Values]


class _MethodWithEstimates(_Method):
    figures: dict[str, _Estimate]
    seconds: Figure = None


class _Comparison(_Row):
    prompts: Step
    samples_per_prompt: Step
    methods: list[_Method]


class _Evaluation(_Comparison):
    step: Step
    methods: list[_MethodWithEstimates]


METRICS = TypeAdapter(dict[str, Figure])
PER_PROMPT = TypeAdapter(_PerPrompt)
SAMPLES = TypeAdapter(_Sample)
DISTRIBUTIONS = TypeAdapter(_Distribution)
EVALUATION = TypeAdapter(_Evaluation)
COMPARISON = TypeAdapter(_Comparison)
"""Of an evaluation what several runs are compared by."""


def checked(file: Path, shape: TypeAdapter, rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a file as they are; raises `UserError`, naming the first that is not of this shape."""
    for row in rows:
        try:
            shape.validate_python(row)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise UserError(
                f"{file} holds what no run of this version writes, at step {row.get('step')!r:.40}: {where}: "
                f"{problem['msg']}"
            ) from error
        yield row
