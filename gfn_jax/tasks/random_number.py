"""A random number: asked for one, the policy draws it from a distribution of the user's (Hu et al. 2024, section 2).

The policy writes ASCII digits and the terminator, nothing else, so that all it can write is a prefix tree and its
distribution is known exactly. For every prefix y, log R(y ⊤) = log target(y), or `invalid_log_r` where y is no number
of the target. A number has one spelling: "05" is none.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gfn_jax.config.schema import Config, Natural, Positive
from gfn_jax.models.parts import Weights
from gfn_jax.rewards.protocol import Call, Components, Reward, RewardContext
from gfn_jax.runtime.errors import UserError
from gfn_jax.tasks.task import Task
from gfn_jax.types import Prompts, Trajectories

DIGITS = "0123456789"
MOST_DIGITS = 4
"""Validation lists all strings of digits: these make 11,111."""
_OPTIONS = "task.options"


class Options(BaseModel):
    """What `task.options` holds: all of it, whatever the target.

    target         uniform over the numbers from `low` to `high`; or poisson: of this `mean`, its tails outside of
                   them cut off; or table: in proportion to the weights of a `table`
    invalid_log_r  log R of every string of digits that is no number of the target, where the target sums to one
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    target: Literal["uniform", "poisson", "table"]
    low: Natural
    high: Annotated[int, Field(ge=0, lt=10**MOST_DIGITS)]
    mean: Positive
    table: dict[str, Positive]
    invalid_log_r: Annotated[float, Field(lt=0)]


class RandomNumber(Task):
    """Its one example is the prompt, `task.prompt_template` as it is.

    That may end in white space, unlike other tasks' prompts: a digit brings none of its own.
    """

    fields = ()
    is_of_one_prompt = True

    def __init__(self, config: Config):
        super().__init__(config)
        options = _read(config.task.options)
        self._invalid_log_r = options.invalid_log_r
        self._log_target = _log_target(options)
        longest = max(map(len, self._log_target))
        sampling, reward = config.sampling, config.reward
        if sampling.min_len != 1:
            raise UserError(
                f"sampling.min_len is {sampling.min_len}: task 'random_number' needs 1, a number of a digit"
            )
        if not longest <= sampling.max_len <= MOST_DIGITS:
            raise UserError(
                f"sampling.max_len is {sampling.max_len}: the target's largest number has {longest} digits, and "
                f"{MOST_DIGITS} are the most; set it to {longest}"
            )
        if reward.sentences.weight or sampling.support_min_p:
            raise UserError(
                "task 'random_number' needs reward.sentences.weight = 0 and sampling.support_min_p = 0, or the policy "
                "would learn another distribution than its target"
            )
        if reward.temperature_end != 1:
            raise UserError(
                f"reward.temperature_end is {reward.temperature_end:g}: task 'random_number' needs 1, or the policy "
                "would learn another distribution than its target"
            )

    def bans(self) -> Mapping[str, str]:
        """Everything that is not exactly one digit; `task.bans` has nothing to add."""
        return {"no_digit": r"\A(?![0-9]\Z)"}

    def load(self) -> tuple[list[str], list[str]]:
        return [self.example()], [self.example()]

    def example(self, **fields: str) -> str:
        return self.config.task.prompt_template

    def target(self, example: str) -> Mapping[str, float]:
        return {number: math.exp(log_p) for number, log_p in self._log_target.items()}

    def reward(self, context: RewardContext) -> Reward:
        return NumberReward(context, self._log_target, self._invalid_log_r)


class NumberReward(Reward):
    """log R of numbers from a table, and one value for all other strings of digits."""

    def __init__(self, context: RewardContext, log_r: Mapping[str, float], invalid_log_r: float):
        self.granularity = context.settings.granularity
        tokenizer = context.tokenizer
        digit_of_V = np.zeros(len(tokenizer.items), np.int32)
        for digit in DIGITS:
            index = tokenizer.find(digit)
            if index is None or index == context.terminator:
                raise UserError(
                    f"task 'random_number' needs a vocabulary item for each digit, which is not the terminator: "
                    f"this tokenizer has none for {digit}"
                )
            digit_of_V[index] = int(digit)
        # All strings of digits, numbered shortest first: one digit more leads from number n to 10 n + 1 + digit.
        max_len = context.max_len
        log_r_of = np.full(_number("9" * max_len) + 1, invalid_log_r)
        log_r_of[[_number(text) for text in log_r]] = list(log_r.values())

        def look_up(trajectories: Trajectories) -> jax.Array:
            digit_NxL = jnp.asarray(digit_of_V)[trajectories.tokens_NxL]
            numbers = [jnp.zeros(digit_NxL.shape[0], jnp.int32)]
            for state in range(max_len):
                numbers.append(10 * numbers[-1] + 1 + digit_NxL[:, state])
            return jnp.asarray(log_r_of, jnp.zeros(()).dtype)[jnp.stack(numbers, 1)]

        self._look_up = jax.jit(look_up, out_shardings=context.rows.sharding)

    def components(
        self, frozen: Weights, examples: Sequence[Any], prompts: Prompts, trajectories: Trajectories
    ) -> Components:
        return {"log_target": self._look_up(trajectories)}

    def combine(self, components: Components, step: jax.Array) -> jax.Array:
        return components["log_target"]

    def to_compile(self, frozen: Weights, prompts: Prompts, trajectories: Trajectories) -> Sequence[Call]:
        return [Call(self._look_up, (trajectories,))]


def _number(digits: str) -> int:
    """The place of a string of digits among all of them, the shortest first."""
    number = 0
    for digit in digits:
        number = 10 * number + 1 + int(digit)
    return number


def _read(given: Mapping[str, Any]) -> Options:
    """The options; raises `UserError` with the key that is missing, unknown or wrong."""
    there_are = ", ".join(Options.model_fields)
    if unknown := sorted(given.keys() - Options.model_fields.keys()):
        raise UserError(f"{_OPTIONS}.{unknown[0]} is unknown to task 'random_number': its options are {there_are}")
    if missing := [name for name in Options.model_fields if name not in given]:
        raise UserError(f"{_OPTIONS}.{missing[0]} is missing: task 'random_number' needs {there_are}")
    try:
        options = Options.model_validate(dict(given))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join([_OPTIONS, *map(str, problem["loc"])])
        raise UserError(f"{key}: {problem['msg']} (it is {problem['input']!r})") from error
    if options.target != "table" and options.low > options.high:
        raise UserError(f"{_OPTIONS}.low {options.low} is greater than {_OPTIONS}.high {options.high}")
    if options.target == "table" and not options.table:
        raise UserError(f"{_OPTIONS}.table is empty: it has the weight of each number of the target")
    for number in options.table:
        if not (number.isascii() and number.isdigit() and str(int(number)) == number and len(number) <= MOST_DIGITS):
            raise UserError(
                f"{_OPTIONS}.table: {number!r} is no whole number from 0 to {10**MOST_DIGITS - 1}, in its one spelling"
            )
    return options


def _log_target(options: Options) -> dict[str, float]:
    """log target of every number, in their order; raises `UserError` where one is rarer than what is no number."""
    if options.target == "table":
        numbers = sorted(map(int, options.table))
        log_weights = np.log([options.table[str(number)] for number in numbers])
    else:
        numbers = list(range(options.low, options.high + 1))
        counts = np.array(numbers, float)
        is_uniform = options.target == "uniform"
        log_factorials = np.array([math.lgamma(number + 1) for number in numbers])
        log_weights = np.zeros(len(numbers)) if is_uniform else counts * math.log(options.mean) - log_factorials
    log_p = log_weights - np.logaddexp.reduce(log_weights)
    rarest = int(log_p.argmin())
    if log_p[rarest] <= options.invalid_log_r:
        raise UserError(
            f"{_OPTIONS}.invalid_log_r is {options.invalid_log_r:g}, but log target({numbers[rarest]}) is "
            f"{log_p[rarest]:.1f}: lower it, or leave out numbers so rare"
        )
    return {str(number): float(value) for number, value in zip(numbers, log_p, strict=True)}
