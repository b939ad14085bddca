"""Rotary position embeddings (Su et al. 2021): their frequencies by type, and the rotation itself.

The frequencies are computed as transformers computes them, in float32 and in its order of operations: a base or
a scaling that is only nearly the model's own shows nowhere but in long texts.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from gfn_jax.models.config_keys import ConfigKeys
from gfn_jax.types import trailing

DEFAULT_THETA = 10_000.0


@dataclasses.dataclass(frozen=True)
class Rotary:
    """`width` numbers of every head are turned, in pairs; pair i by position * theta^(-2 i / width)."""

    width: int
    theta: float

    @property
    def amplitude(self) -> float:
        """What cosine and sine are multiplied with."""
        return 1.0

    def frequencies(self) -> np.ndarray:
        """Radians a position, float32 [width / 2]."""
        return (np.float32(1) / self._powers()).astype(np.float32)

    def _powers(self) -> np.ndarray:
        exponents = np.arange(0, self.width, 2).astype(np.float32) / np.float32(self.width)
        return np.power(np.float64(self.theta), exponents.astype(np.float64)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class LinearRotary(Rotary):
    """Positions divided by a factor (Chen et al. 2023)."""

    factor: float

    def frequencies(self) -> np.ndarray:
        return super().frequencies() / np.float32(self.factor)


@dataclasses.dataclass(frozen=True)
class Llama3Rotary(Rotary):
    """Low frequencies divided by a factor, high ones kept, those between interpolated (Dubey et al. 2024)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def frequencies(self) -> np.ndarray:
        plain = super().frequencies()
        length = self.original_max_position_embeddings
        wavelength = np.float32(1) / plain * np.float32(2 * math.pi)
        is_long = wavelength > np.float32(length / self.low_freq_factor)
        is_short = wavelength < np.float32(length / self.high_freq_factor)
        scaled = np.where(is_long, plain / np.float32(self.factor), plain)
        turns = np.float32(1) / wavelength * np.float32(length)
        share = (turns - np.float32(self.low_freq_factor)) / np.float32(self.high_freq_factor - self.low_freq_factor)
        between = (np.float32(1) - share) * scaled / np.float32(self.factor) + share * scaled
        return np.where(~is_short & ~is_long, between, scaled).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class YarnRotary(Rotary):
    """YaRN (Peng et al. 2023): a ramp over the pairs from kept to divided frequencies, and longer vectors."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None
    beta_fast: float
    beta_slow: float
    mscale: float | None
    mscale_all_dim: float | None
    truncate: bool

    @property
    def amplitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._lengthening(self.mscale) / self._lengthening(self.mscale_all_dim)
        return self._lengthening(1.0)

    def frequencies(self) -> np.ndarray:
        powers = self._powers()
        kept, divided = np.float32(1) / powers, np.float32(1) / (np.float32(self.factor) * powers)
        low, high = self._pair_that_turns(self.beta_fast), self._pair_that_turns(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.width - 1)
        if low == high:
            high += 0.001
        pairs = np.arange(self.width // 2, dtype=np.float32)
        ramp = np.clip((pairs - np.float32(low)) / np.float32(high - low), 0, 1)
        share_kept = np.float32(1) - ramp
        return (divided * (np.float32(1) - share_kept) + kept * share_kept).astype(np.float32)

    def _pair_that_turns(self, times: float) -> float:
        """The pair, as a real number, that turns so many times within the original context."""
        turns = math.log(self.original_max_position_embeddings / (times * 2 * math.pi))
        return self.width * turns / (2 * math.log(self.theta))

    def _lengthening(self, mscale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0


def read_rotary(keys: ConfigKeys, head_width: int, context: int, theta: float = DEFAULT_THETA) -> Rotary:
    """What a `config.json` says of its rotary embeddings, in the newer form and in the older ones.

    Raises `UserError`, naming it, where the type is none of those above.
    """
    given = keys.take_object("rope_parameters")
    given = dict(keys.take_object("rope_scaling") or given)
    theta = keys.take("rope_theta", theta)
    partial = keys.take("partial_rotary_factor", None)
    given.setdefault("rope_theta", theta)
    if partial is not None:
        given.setdefault("partial_rotary_factor", partial)
    return make_rotary(keys.inner("rope_parameters", given), head_width, context)


def make_rotary(keys: ConfigKeys, head_width: int, context: int) -> Rotary:
    """The rotary embeddings that parameters, which have a theta, describe."""
    older = keys.take("type", "default")
    kind = keys.take("rope_type", older)
    theta = keys.take("rope_theta")
    keys.off("partial_rotary_factor", 1, None)
    length = {"original_max_position_embeddings": keys.take("original_max_position_embeddings", None) or context}
    readers: dict[str, tuple[type[Rotary], dict[str, Any]]] = {
        "default": (Rotary, {}),
        "linear": (LinearRotary, {"factor": ...}),
        "llama3": (Llama3Rotary, {"factor": ..., "low_freq_factor": ..., "high_freq_factor": ...} | length),
        "yarn": (
            YarnRotary,
            {"factor": ..., "attention_factor": None, "beta_fast": 32, "beta_slow": 1, "mscale": None}
            | {"mscale_all_dim": None, "truncate": True}
            | length,
        ),
    }
    if not isinstance(kind, str) or kind not in readers:
        keys.refuse("rope_type", kind, f"there are {', '.join(readers)}")
    made, wanted = readers[kind]
    settings = {
        name: keys.take(name) if default is ... else keys.take(name, default)
        for name, default in wanted.items()
        if name not in length
    }
    for name in ("beta_fast", "beta_slow"):
        if name in settings:
            settings[name] = settings[name] or wanted[name]
    if head_width % 2:
        keys.refuse("head_dim", head_width, "rotary embeddings turn pairs: an even width is needed")
    fields = {"width": head_width, "theta": theta, **settings, **(length if length.keys() & wanted.keys() else {})}
    rotary = keys.validated(made, **fields)
    for name in ("theta", "factor", "low_freq_factor", "high_freq_factor"):
        if not 0 < (value := getattr(rotary, name, 1)) < math.inf:
            keys.refuse(name, value, "must be above 0, and finite")
    return rotary


@struct.dataclass
class Rotation:
    """Cosine and sine [.., width / 2] of the angles at some positions [..]."""

    cos: jax.Array
    sin: jax.Array

    @classmethod
    def at(cls, rotary: Rotary, positions: jax.Array, dtype: jnp.dtype) -> "Rotation":
        wide = jnp.promote_types(dtype, jnp.float32)
        frequencies = trailing(jnp.asarray(rotary.frequencies(), wide), positions.ndim + 1)
        angles = positions[..., None].astype(wide) * frequencies
        return cls(rotary.amplitude * jnp.cos(angles), rotary.amplitude * jnp.sin(angles))

    def turn(self, x: jax.Array) -> jax.Array:
        """Queries or keys [.., *heads, K], whose first half of a head pairs with its second; in their dtype."""
        between = x.ndim - self.cos.ndim
        cos, sin = (part.reshape(*part.shape[:-1], *(1,) * between, -1) for part in (self.cos, self.sin))
        first, second = jnp.split(x.astype(cos.dtype), 2, -1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
