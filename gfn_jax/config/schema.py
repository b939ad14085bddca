"""The typed view of a configuration, and all of its validation.

Every key stands in a file of `configs/`, with its meaning in `gfn_jax/config/base.py`: nothing has a
default here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gfn_jax.config.server_url import check_url
from gfn_jax.runtime.errors import UserError

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
OfEights = Annotated[int, Field(ge=8, multiple_of=8)]
"""A batch whose rows all take one way through a CPU's vector units, so that a row's place in it changes no bit."""

FLATTEST_TARGET = 0.8
"""Least power of the frozen model's likelihood in a target that no support mask keeps on language."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Task(Section):
    name: Text
    prompt_template: Text
    terminator: Text
    bans: dict[str, str]
    options: dict[str, Any]


class Data(Section):
    path: str
    val_path: str
    val_prompts: Annotated[int, Field(ge=2)]
    prompt_buckets: Annotated[tuple[Count, ...], Field(min_length=1)]


class LoRA(Section):
    rank: Count
    alpha: Positive
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    init_from: str


class Model(Section):
    name_or_path: Text
    tokenizer: str
    random_init: bool
    dtype: Literal["bfloat16", "float32", "float64"]
    quantize: Literal["", "int8", "nf4"]
    matmul_precision: Literal["highest", "high", "default"]
    remat: bool
    lora: LoRA


class Mesh(Section):
    data: int
    model: int
    fsdp: bool


class Sampling(Section):
    samples_per_prompt: Count
    min_len: Natural
    max_len: Count
    support_min_p: Share
    temperature_low: Positive
    temperature_high: Positive
    temperature_prob: Share
    top_k: Natural
    top_p: Annotated[float, Field(gt=0, le=1)]
    rounds_adapter: bool

    @model_validator(mode="after")
    def _ordered(self) -> "Sampling":
        if self.min_len > self.max_len:
            raise ValueError(f"min_len {self.min_len} is greater than max_len {self.max_len}")
        if self.temperature_low > self.temperature_high:
            raise ValueError(
                f"temperature_low {self.temperature_low} is greater than temperature_high {self.temperature_high}"
            )
        return self


class Objective(Section):
    name: Literal["subtb", "db", "pooled", "vargrad", "tb", "reinforce"]
    subtb_lambda: Share
    log_z_learning_rate: Positive


class Answers(Section):
    template: Text
    min_new_tokens: Count
    max_new_tokens: Count
    batch_size: OfEights
    threshold: float
    penalty: NotNegative

    @model_validator(mode="after")
    def _ordered(self) -> "Answers":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens {self.min_new_tokens} exceeds max_new_tokens {self.max_new_tokens}")
        return self


class Judge(Section):
    """A text classifier in worker processes."""

    name_or_path: str
    device: Text
    dtype: Literal["float32", "bfloat16", "float16"]
    workers: Count
    threads: Count
    batch_size: OfEights
    max_length: Annotated[int, Field(ge=16)]
    timeout_s: Positive
    attempts: Count


class NLI(Judge):
    contradiction_label: Annotated[int, Field(ge=-1)]


class Sentences(Judge):
    weight: NotNegative
    label: Text


class Function(Section):
    """A function of the user's own, as a part of log R."""

    name: str
    granularity: Literal["terminal", "prefix"]
    weights: dict[str, float]
    workers: Natural
    batch_size: Count
    timeout_s: Positive
    attempts: Count


class Hybrid(Section):
    steps: Natural
    threshold: Share
    penalty: NotNegative


class Reward(Section):
    granularity: Literal["prefix", "terminal"]
    temperature_start: Positive
    temperature_end: Positive
    temperature_horizon: Natural
    likelihood_weight: NotNegative
    allow_flat_target: bool
    function: Function
    sentences: Sentences
    contradiction_weight: NotNegative
    original_weight: NotNegative
    answer_weight: NotNegative
    hybrid: Hybrid
    answers: Answers
    nli: NLI
    cache_mb: Positive


class Replay(Section):
    backend: Literal["memory", "redis"]
    url: Text
    password_variable: str
    fraction: Annotated[float, Field(ge=0, lt=1)]
    sampling: Literal["uniform", "reward"]
    capacity: Count
    total: Count
    min_edit_distance: Share

    @field_validator("url")
    @classmethod
    def _without_password(cls, url: str) -> str:
        check_url(url)
        return url

    @model_validator(mode="after")
    def _ordered(self) -> "Replay":
        if self.capacity > self.total:
            raise ValueError(f"capacity {self.capacity}, of a prompt, is greater than total {self.total}, of all")
        return self


class Train(Section):
    steps: Count
    prompts_per_step: Count
    microbatch_prompts: Count
    learning_rate: Positive
    warmup_steps: Natural
    decay_steps: Count
    final_learning_rate: Share
    adam_b1: Decay
    adam_b2: Decay
    weight_decay: NotNegative
    max_grad_norm: Positive
    max_bad_steps: Count
    pipeline_depth: Natural
    log_every: Count
    checkpoint_every: Count
    keep_checkpoints: Count
    keep_best: str
    eval_every: Count
    patience: Natural

    @model_validator(mode="after")
    def _waits_for_a_figure(self) -> "Train":
        if self.patience and not self.keep_best:
            raise ValueError(
                f"patience {self.patience} waits for a better validation figure, and keep_best names none: name one, "
                "or set patience to 0"
            )
        return self


class Evaluation(Section):
    samples_per_prompt: Annotated[int, Field(ge=2)]
    prompts_per_batch: Count
    probes: Natural


class Tracking(Section):
    wandb: Literal["online", "offline", "disabled"]
    project: str


class Config(Section):
    seed: Natural
    task: Task
    data: Data
    model: Model
    mesh: Mesh
    sampling: Sampling
    objective: Objective
    reward: Reward
    replay: Replay
    train: Train
    eval: Evaluation
    tracking: Tracking

    @property
    def replayed_per_prompt(self) -> int:
        """How many of a prompt's samples in a training step are remembered ones."""
        return round(self.replay.fraction * self.sampling.samples_per_prompt)

    @property
    def batches(self) -> tuple[int, int]:
        """How many prompts go over the mesh at once: a training step's, and a validation's."""
        return self.train.prompts_per_step, self.eval.prompts_per_batch

    @property
    def fresh_per_prompt(self) -> int:
        """How many of a prompt's samples in a step are drawn for it."""
        return self.sampling.samples_per_prompt - self.replayed_per_prompt

    @model_validator(mode="after")
    def _has_fresh_and_replayed_rows(self) -> "Config":
        samples, replayed = self.sampling.samples_per_prompt, self.replayed_per_prompt
        if self.replay.fraction and not 0 < replayed < samples:
            raise ValueError(
                f"replay.fraction {self.replay.fraction:g} of sampling.samples_per_prompt {samples} are {replayed} "
                "rows: a prompt needs a fresh row or more, and a replayed one"
            )
        return self

    @model_validator(mode="after")
    def _has_rewards_to_compare(self) -> "Config":
        function = self.reward.function
        if "terminal" in (self.reward.granularity, function.granularity if function.name else ""):
            check_terminal_reward(self.objective.name)
        return self

    @model_validator(mode="after")
    def _has_language_as_target(self) -> "Config":
        share = self.reward.likelihood_weight / self.reward.temperature_end
        if share < FLATTEST_TARGET and not self.sampling.support_min_p and not self.reward.allow_flat_target:
            raise ValueError(
                f"reward.likelihood_weight / reward.temperature_end is {share:.2g}: below {FLATTEST_TARGET} the target "
                "is hardly language any more, and a policy that samples from it emits random tokens. Raise the "
                "weight, lower the temperature, set sampling.support_min_p, or insist with reward.allow_flat_target"
            )
        return self

    @model_validator(mode="after")
    def _has_samples_to_compare(self) -> "Config":
        may_need_start = self.sampling.min_len > 0 or self.sampling.support_min_p > 0
        name, samples = self.objective.name, self.fresh_per_prompt
        if samples < 2 and name in ("pooled", "vargrad", "reinforce"):
            raise ValueError(
                f"objective {name!r} compares the samples of a prompt: set sampling.samples_per_prompt to 2 or more, "
                "not counting replayed ones"
            )
        if samples < 2 and name in ("subtb", "db") and may_need_start:
            raise ValueError(
                f"objective {name!r} with sampling.min_len or sampling.support_min_p above 0 estimates log Z "
                "from a prompt's other samples: set sampling.samples_per_prompt to 2 or more, not counting "
                "replayed ones"
            )
        return self

    @model_validator(mode="after")
    def _trains_a_control_on_its_own_samples(self) -> "Config":
        if self.objective.name != "reinforce":
            return self
        sampling = self.sampling
        off = {
            "sampling.temperature_prob": (sampling.temperature_prob, 0),
            "sampling.top_k": (sampling.top_k, 0),
            "sampling.top_p": (sampling.top_p, 1),
            "replay.fraction": (self.replay.fraction, 0),
            "train.pipeline_depth": (self.train.pipeline_depth, 0),
        }
        if wrong := [f"{key} to {right} (it is {value:g})" for key, (value, right) in off.items() if value != right]:
            raise ValueError(
                f"objective 'reinforce' is right for what the policy itself samples alone: set {', '.join(wrong)}"
            )
        return self


def check_terminal_reward(objective: str) -> None:
    """Raises `UserError` where an objective has no use for a reward of whole texts alone."""
    if objective in ("subtb", "db", "pooled"):
        raise UserError(
            f"objective {objective!r} compares the states of one text, and a terminal reward is of whole texts alone: "
            "it would cancel out of the loss. Choose objective.name vargrad or tb, or a reward of every prefix "
            "(reward.granularity, or reward.function.granularity)"
        )


def beginning_from(adapter: str, config: Config) -> Config:
    """The configuration with another `model.lora.init_from`."""
    lora = config.model.lora.model_copy(update={"init_from": adapter})
    return config.model_copy(update={"model": config.model.model_copy(update={"lora": lora})})
