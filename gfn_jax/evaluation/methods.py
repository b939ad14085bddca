"""Ways to continue a prompt: a trained policy's, and its frozen model's that it is compared with, all under its masks.

A method draws continuations and nothing else. What they are worth is measured for all methods alike
(`evaluation/comparison.py`), by the same models under the same masks.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp

from gfn_jax.models.language_model import LanguageModel
from gfn_jax.models.parts import ModelStructure, Weights
from gfn_jax.policy.beam_search import beam_search
from gfn_jax.policy.behaviour import ON_POLICY, Behaviour
from gfn_jax.policy.masks import Rules
from gfn_jax.policy.sampler import sample
from gfn_jax.runtime.errors import UserError
from gfn_jax.types import Prompts, Trajectories

COLDEST = 1e-3
"""The least temperature that logits are divided by."""
TEMPERATURES = (0.5, 0.7, 0.85, 1.2)
NUCLEI = (0.5, 0.8, 0.95)
POSSIBLE = {"temperature": (COLDEST, 100.0), "nucleus": (0.001, 1.0)}
"""The least and the greatest setting of a family that may be asked for."""
_NAME = re.compile(r"(temperature|nucleus) (\d*\.?\d+)")
WIDE = 5
"""How many times as many beams as samples the wider beam searches have."""
DIVERSITY_PENALTY = 1.0

Drawn = tuple[Trajectories, jax.Array]
"""Continuations, prompt-major, and which of them there are: masks may leave a prompt fewer than were asked for."""


@dataclasses.dataclass(frozen=True)
class Method:
    """How to continue prompts: `draw(policy, frozen, rules, prompts, key, arguments)`, traced, a fixed number for each.

    Methods that share `draw` are compiled once; `arguments` is a pytree. Those of one `family` differ in a
    `setting`, such as a temperature. `samples_of` is the model that the continuations are exact samples of, if
    they are of one. `beams` are rows that a prompt takes while it draws, where these are not its continuations.
    """

    name: str
    draw: Callable[[LanguageModel, LanguageModel, Rules, Prompts, jax.Array, Any], Drawn]
    arguments: Any = None
    family: str = ""
    setting: float | None = None
    samples_of: Literal["policy", "frozen"] | None = None
    beams: int | None = None


@dataclasses.dataclass(frozen=True)
class Resampling:
    """What samples of the target look like: some of `candidates` of the frozen model's, drawn in proportion to R / p.

    It needs the reward, so it is no way to continue a prompt, but a reference for those that are.
    """

    candidates: int
    name: str = "reference"
    family: str = "reference"
    setting: float | None = None


class Named(Protocol):
    """What `choose` chooses from."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


def make_draw(structure: ModelStructure, rules: Rules) -> Callable[..., Drawn]:
    """`draw(method.draw, adapter, frozen, prompts, key, method.arguments)`, compiled; only whole texts are rewarded."""

    @functools.partial(jax.jit, static_argnums=0)
    def draw(draw_by, adapter: Weights, frozen: Weights, prompts: Prompts, key: jax.Array, arguments: Any) -> Drawn:
        models = structure.policy_and_frozen(adapter, frozen)
        trajectories, is_there_N = draw_by(*models, rules, prompts, key, arguments)
        return trajectories.rewarded_whole(), is_there_N

    return draw


def all_methods(samples: int, temperature_end: float, names: Sequence[str] = ()) -> list[Method]:
    """The trained policy first, then every baseline; each gives `samples` continuations of a prompt.

    To the usual temperatures and nuclei come those of `names`, such as "temperature 0.6"; raises `UserError` where one
    is impossible.
    """
    tempered, truncated = _sampling(samples), _sampling(samples)
    asked = [found for name in names if (found := _asked(name))]
    temperatures = sorted({*TEMPERATURES, temperature_end, *(own for family, own in asked if family == "temperature")})
    nuclei = sorted({*NUCLEI, *(own for family, own in asked if family == "nucleus")})
    return [
        Method("GFlowNet", _sampling(samples, of_policy=True), ON_POLICY, "GFlowNet", temperature_end, "policy"),
        Method("sampling", tempered, _at(1.0), "temperature", 1.0, "frozen"),
        *(
            Method(f"temperature {each:g}", tempered, _at(each), "temperature", each)
            for each in temperatures
            if each != 1
        ),
        *(
            Method(f"nucleus {each:g}", truncated, Behaviour(top_p=each), "nucleus", each)
            for each in nuclei
            if each < 1
        ),
        Method("greedy", _beams(1, 1, repeated=samples), family="greedy"),
        *_beam_searches(samples),
    ]


def prompts_at_once(method: Method, batch: int, samples: int, ways: int) -> int:
    """How many of a batch's prompts, split `ways` ways, are continued at once.

    As many as keep a search with many beams from holding more rows than `samples` of each prompt are.
    """
    most = max(ways, batch * samples // (method.beams or samples))
    return max(count for count in range(ways, most + 1, ways) if batch % count == 0)


def choose(methods: Sequence[T], names: Sequence[str], flag: str) -> list[T]:
    """The methods with these names; raises `UserError`, naming the flag that they come from, where there is none."""
    known = {method.name: method for method in methods}
    if strange := [name for name in names if _canonical(name) not in known]:
        raise UserError(f"{flag}: there is no method {strange[0]!r}; there are {', '.join(known)}")
    return [known[_canonical(name)] for name in names]


def _asked(name: str) -> tuple[str, float] | None:
    """The family and the setting that a name is of; raises `UserError` where the setting is impossible."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    family, setting = found[1], float(found[2])
    low, high = POSSIBLE[family]
    if not low <= setting <= high:
        raise UserError(f"{name!r}: a {family} is between {low:g} and {high:g}")
    return family, setting


def _canonical(name: str) -> str:
    """A method's name as it is written everywhere: of 0.60 that of 0.6, and "sampling" where nothing is changed."""
    asked = _asked(name)
    return name if not asked else "sampling" if asked[1] == 1 else f"{asked[0]} {asked[1]:g}"


def _at(temperature: float) -> Behaviour:
    return Behaviour(temperature, temperature, 1.0)


def _beam_searches(samples: int) -> Iterator[Method]:
    for beams in (samples, WIDE * samples):
        diverse = _beams(samples, beams, groups=samples)
        yield Method(f"beam {beams}", _beams(samples, beams), None, "beam", beams, beams=beams)
        yield Method(f"diverse beam {beams}", diverse, None, "diverse beam", beams, beams=beams)


def _sampling(samples: int, *, of_policy: bool = False) -> Callable[..., Drawn]:
    def draw(
        policy: LanguageModel,
        frozen: LanguageModel,
        rules: Rules,
        prompts: Prompts,
        key: jax.Array,
        behaviour: Behaviour,
    ) -> Drawn:
        model = policy if of_policy else frozen
        trajectories, _ = sample(model, frozen, rules, prompts, key, samples_per_prompt=samples, behaviour=behaviour)
        return trajectories, jnp.ones(trajectories.length_N.shape, bool)

    return draw


def _beams(samples: int, beams: int, *, groups: int = 1, repeated: int = 1) -> Callable[..., Drawn]:
    def draw(
        policy: LanguageModel, frozen: LanguageModel, rules: Rules, prompts: Prompts, key: jax.Array, _: None
    ) -> Drawn:
        penalty = DIVERSITY_PENALTY if groups > 1 else 0.0
        found = beam_search(frozen, rules, prompts, beams=beams, groups=groups, diversity_penalty=penalty)
        best = jax.tree.map(lambda x: jnp.repeat(x[:, :samples], repeated, 1), found)
        tokens, length, log_p = (
            x.reshape(-1, *x.shape[2:]) for x in (best.tokens_BxSxL, best.length_BxS, best.log_p_BxS)
        )
        return Trajectories.given(tokens, length), log_p > -jnp.inf

    return draw
