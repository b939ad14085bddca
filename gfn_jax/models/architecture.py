"""What an architecture says of itself: its sizes, the parts of a layer, its tensors, and what differs by layer.

An architecture is a frozen dataclass, one small file each; `language_model.py` computes with what it says.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from gfn_jax.models.norms import LayerNorm, RMSNorm
from gfn_jax.models.rotary import Rotary

VOCABULARY_MULTIPLE = 128
Path = tuple[str, ...]
"""Where a weight lives in the nested dicts of a model's weights."""


class Axis(NamedTuple):
    """An axis of a weight; its name, if it has one, says what it may be split over: `models/mesh.py`.

    vocabulary, width, heads (that have keys and values of their own), inner (of the MLP)
    """

    name: str | None
    size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a model or of a layer: Hugging Face's name, where it lives here, its axes here.

    inputs         how many of the axes are a kernel's inputs; 0 where it is no kernel
    outputs_first  whether Hugging Face's kernel is [outputs, inputs]
    is_flat        whether Hugging Face has all axes in one
    """

    name: str
    path: Path
    axes: tuple[Axis, ...]
    inputs: int = 0
    outputs_first: bool = False
    is_flat: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is here; the vocabulary without its padding."""
        return tuple(axis.size for axis in self.axes)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """As Hugging Face has it: heads are no axes of their own."""
        if self.inputs:
            sizes = (math.prod(self.shape[: self.inputs]), math.prod(self.shape[self.inputs :]))
            return sizes[::-1] if self.outputs_first else sizes
        return (math.prod(self.shape),) if self.is_flat else self.shape

    def from_stored(self, values: np.ndarray) -> np.ndarray:
        """Hugging Face's values, shaped as here."""
        return (values.T if self.outputs_first else values).reshape(self.shape)

    def to_stored(self, values: np.ndarray) -> np.ndarray:
        """Our values, shaped as Hugging Face's."""
        shape = self.stored_shape
        return values.reshape(shape[::-1]).T if self.outputs_first else values.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear layer within a layer, under Hugging Face's dotted name; `std` is that of random weights."""

    name: str
    inputs: tuple[Axis, ...]
    outputs: tuple[Axis, ...]
    has_bias: bool = False
    std: float = 0.02
    outputs_first: bool = True

    @property
    def module(self) -> str:
        """Its name here."""
        return module_name(self.name)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        kernel = Tensor(
            f"{self.name}.weight",
            (self.module, "kernel"),
            self.inputs + self.outputs,
            len(self.inputs),
            self.outputs_first,
        )
        bias = Tensor(f"{self.name}.bias", (self.module, "bias"), self.outputs, is_flat=True)
        return (kernel, bias) if self.has_bias else (kernel,)


@dataclasses.dataclass(frozen=True)
class Norm:
    """A normalisation over the last axis, under Hugging Face's dotted name.

    offset  what is added to the weights of a root-mean-square norm
    """

    name: str
    kind: type[LayerNorm] | type[RMSNorm]
    size: int
    epsilon: float
    offset: float = 0.0

    @property
    def module(self) -> str:
        """Its name here."""
        return module_name(self.name)

    def build(self, dtype: jnp.dtype) -> LayerNorm | RMSNorm:
        if self.kind is LayerNorm:
            return LayerNorm(self.size, self.epsilon, dtype)
        return RMSNorm(self.size, self.epsilon, self.offset, dtype)

    def tensors_at(self, *path: str) -> tuple[Tensor, ...]:
        axes = (Axis(None, self.size),)
        return tuple(Tensor(f"{self.name}.{theirs}", (*path, ours), axes) for theirs, ours in self.kind.TENSORS)


class Kind(NamedTuple):
    """What differs from layer to layer.

    rotary  how positions turn queries and keys; None where they do not
    window  how far a position sees: itself and the `window` - 1 before it; None is all
    """

    rotary: Rotary | None = None
    window: int | None = None

    def window_within(self, positions: int) -> int | None:
        """The window, where so many positions do not all fit into it."""
        return self.window if self.window is not None and self.window < positions else None


class Architecture(abc.ABC):
    """The sizes of one model. Subclasses are frozen dataclasses, with their `config.json`'s names where that is clear.

    prefix           of all tensors but the head's, in a model's files
    layers           the prefix of the layers' tensors behind it, before their numbers
    ignored          ends of names of tensors that change no result
    token_embedding  the tensor's name
    position_embedding  the tensor's name, where positions are learned
    block            the `Block` that computes a layer
    kinds            the different kinds of layers, and in `kind_of_layer` of every layer the index of its kind
    """

    prefix: ClassVar[str]
    layers: ClassVar[str]
    ignored: ClassVar[tuple[str, ...]] = ()
    token_embedding: ClassVar[str]
    position_embedding: ClassVar[str | None] = None
    block: ClassVar[Any]

    vocab_size: int
    tie_word_embeddings: bool
    kinds: Any  # tuple[Kind, ...]
    kind_of_layer: Any  # tuple[int, ...]

    @property
    @abc.abstractmethod
    def width(self) -> int: ...

    @property
    @abc.abstractmethod
    def depth(self) -> int:
        """How many layers there are."""

    @property
    @abc.abstractmethod
    def context(self) -> int:
        """The most positions."""

    @property
    @abc.abstractmethod
    def key_value_heads(self) -> int: ...

    @property
    @abc.abstractmethod
    def head_width(self) -> int: ...

    @property
    @abc.abstractmethod
    def parts(self) -> tuple[Linear | Norm, ...]:
        """What a layer is made of, in the order in which random weights are drawn."""

    @property
    @abc.abstractmethod
    def final_norm(self) -> Norm: ...

    @property
    def attention_scale(self) -> float:
        """What products of queries and keys are multiplied with."""
        return 1 / math.sqrt(self.head_width)

    @property
    def embedding_scale(self) -> float | None:
        """What embeddings are multiplied with."""
        return None

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def outputs_first(self) -> bool:
        """Whether Hugging Face's kernels are [outputs, inputs]."""
        return all(part.outputs_first for part in self.parts if isinstance(part, Linear))

    @functools.cached_property
    def layer_names(self) -> tuple[str, ...]:
        """What of a layer may have an adapter."""
        return tuple(part.name for part in self.parts if isinstance(part, Linear))

    @functools.cached_property
    def layer_weights(self) -> int:
        """How many weights the kernels of all layers have."""
        linear = [part for part in self.parts if isinstance(part, Linear)]
        return self.depth * sum(math.prod(axis.size for axis in part.inputs + part.outputs) for part in linear)

    def adapted_layers(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """The names that LoRA targets mean, as PEFT reads them: whole dotted suffixes, or `all-linear`."""
        return tuple(
            name
            for name in self.layer_names
            if any(target == ALL_LINEAR or f".{name}".endswith(f".{target}") for target in targets)
        )

    @functools.cached_property
    def top_tensors(self) -> tuple[Tensor, ...]:
        """The tensors that are no layer's."""
        vocabulary, width = Axis("vocabulary", self.vocab_size), Axis("width", self.width)
        tensors = [Tensor(self.token_embedding, ("token_embedding",), (vocabulary, width))]
        if self.position_embedding:
            positions = Axis(None, self.context)
            tensors.append(Tensor(self.position_embedding, ("position_embedding",), (positions, width)))
        tensors += self.final_norm.tensors_at("final_norm")
        if not self.tie_word_embeddings:
            tensors.append(Tensor(HEAD, ("head",), (vocabulary, width)))
        return tuple(tensors)

    @functools.cached_property
    def layer_tensors(self) -> tuple[Tensor, ...]:
        """The tensors of a layer; their paths are those within it."""
        return tuple(
            tensor
            for part in self.parts
            for tensor in (part.tensors if isinstance(part, Linear) else part.tensors_at(part.module))
        )

    @functools.cached_property
    def _tensor_at(self) -> Mapping[Path, Tensor]:
        of_layers = {("blocks", *tensor.path): tensor for tensor in self.layer_tensors}
        return {tensor.path: tensor for tensor in self.top_tensors} | of_layers

    def weight_axes(self, path: Path, ndim: int) -> tuple[str | None, ...]:
        """The names of the axes of a weight, or of one layer of a stack.

        The parts of a quantised kernel have the kernel's; those of an adapter have none.
        """
        tensor = self._tensor_at.get(path) or self._tensor_at.get(path[:-1])
        if tensor is None:
            return (None,) * ndim
        names = (None, *(axis.name for axis in tensor.axes))
        return names[-ndim:]

    def input_axes(self, path: Path) -> int:
        """How many of the axes of one layer's kernel are its inputs."""
        return self._tensor_at[path].inputs


ALL_LINEAR = "all-linear"
HEAD = "lm_head.weight"


def module_name(name: str) -> str:
    """What a part of a layer is called here."""
    return name.replace(".", "_")
