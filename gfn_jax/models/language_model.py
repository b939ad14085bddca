"""A decoder-only language model with LoRA: its layers stacked and scanned, its cache a plain value.

It computes with what an `Architecture` says. A batch holds B prompts with S continuations each. A prompt is
encoded once; its keys and values serve all its continuations, in sampling and in scoring alike.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from gfn_jax.models.architecture import Architecture, Path
from gfn_jax.models.attention import KeyValues, attention, is_visible
from gfn_jax.models.block import Block
from gfn_jax.models.layout import WHEREVER, Layout
from gfn_jax.models.packing import Packing, in_room, rooms
from gfn_jax.models.rotary import Rotation
from gfn_jax.types import LoRAConfig, Prompts, checked, trailing

_WHOLE = "whole weights"


@struct.dataclass
class PromptCache:
    """An encoded prompt: keys and values [layers, B, P, G K], flat, and the last token's hidden state."""

    layers: KeyValues
    last_hidden_BxD: Float[Array, "B D"]


@struct.dataclass
class _OfKind:
    """What a kind of layers needs to know of positions: their rotation, and who sees whom.

    `beginning` is the same of what all prompts begin with, where there is such.
    """

    rotation: Rotation | None
    prompt_QxC: jax.Array
    own_QxC: jax.Array | None = None
    own_to_prompt_BxQxP: jax.Array | None = None
    beginning: "_OfKind | None" = None


class LanguageModel(nnx.Module):
    """The language model: the frozen one without `lora`, the policy with it."""

    def __init__(
        self,
        architecture: Architecture,
        lora: LoRAConfig | None = None,
        *,
        dtype: jnp.dtype = jnp.float32,
        quantize: str = "",
        remat: bool = False,
        layout: Layout = WHEREVER,
        rngs: nnx.Rngs,
    ):
        def embedding(rows):
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), (rows, architecture.width), dtype))

        @nnx.split_rngs(splits=architecture.depth)
        @nnx.vmap
        def stacked(rngs):
            return architecture.block(architecture, lora, dtype, quantize, layout, rngs)

        self.architecture, self.layout = architecture, layout
        self.quantize, self.remat = quantize, remat
        self.token_embedding = embedding(architecture.padded_vocab_size)
        self.position_embedding = embedding(architecture.context) if architecture.position_embedding else None
        self.blocks = stacked(rngs)
        self.final_norm = architecture.final_norm.build(dtype)
        self.head = None if architecture.tie_word_embeddings else embedding(architecture.padded_vocab_size)

    @checked
    def encode(self, prompts: Prompts, room: int | None = None) -> tuple[Float[Array, "B Q D"], PromptCache]:
        """Hidden states of every prompt position behind the beginning, and the cache for what follows the prompts.

        What all prompts begin with goes through the layers once. What is said of padding means nothing. Within vmap,
        which would compute all that might be chosen, the pass wants to be told the `room` of its rows.
        """
        layout, length_BxS = self.layout, jnp.zeros((len(prompts.length_B), 0), jnp.int32)  # no continuations
        whole = Packing.whole(prompts, 0, 1, layout.shards)

        def of_room(room: int) -> tuple[jax.Array, KeyValues]:
            packing = Packing.of(prompts, length_BxS, 1, room, layout.shards)
            hidden, layers = self._read(prompts, length_BxS[..., None], packing, keep=True)
            return packing.unpack(self.final_norm(hidden))[0], layers

        choices = rooms(self.architecture.layer_weights, layout, whole) if room is None else (room,)
        hidden, layers = in_room(of_room, choices, whole.room_for(prompts, length_BxS))
        return hidden, PromptCache(layers, _last(prompts, hidden))

    @checked
    def states(self, prompts: Prompts, tokens: Int[Array, "B S L"], packing: Packing) -> Float[Array, "W U D"]:
        """Hidden states at all states of continuations, behind the prompt and behind each token, as they are packed."""
        hidden, _ = self._read(prompts, tokens, packing)
        of_prompts, _ = packing.unpack(hidden)
        return self.final_norm(packing.states(_last(prompts, of_prompts), hidden))

    def _read(
        self, prompts: Prompts, tokens: jax.Array, packing: Packing, *, keep: bool = False
    ) -> tuple[jax.Array, Any]:
        """What the layers make of a packing's rows, [W, X, D]; and, to be kept, prompts' keys and values, as in caches.

        Prompts and continuations go through the layers side by side, so that every weight is used once; beside
        them, once, what all prompts begin with.
        """
        start, length = len(prompts.beginning), prompts.tokens_BxP.shape[1]
        batch, samples, count = tokens.shape
        steps, prompt_steps, keys = jnp.arange(count), jnp.arange(start, length), jnp.arange(length)
        positions = prompts.length_B[:, None] + steps[None, :]
        all_positions = packing.pack(
            jnp.broadcast_to(prompt_steps[None, :], (batch, length - start)),
            jnp.broadcast_to(positions[:, None, :], tokens.shape),
        )
        scale = self.architecture.attention_scale
        of_kinds = [
            _OfKind(
                self._rotation(kind, all_positions),
                is_visible(prompt_steps, keys, kind.window_within(length)),
                is_visible(steps, steps, kind.window_within(count)),
                prompts.visible_from(positions, kind.window_within(length + count)),
                self._of_beginning(kind, start),
            )
            for kind in self.architecture.kinds
        ]

        def layer(carry, block, of_kind):
            beginning, hidden = carry
            beginning, before = _begun(beginning, block, of_kind.beginning, scale)

            def attend(*qkv):
                (prompt_q, q), (prompt_k, k), (prompt_v, v) = map(packing.unpack, qkv)
                shared = _behind(before, KeyValues(prompt_k, prompt_v))
                attended = q
                if samples:
                    own = KeyValues(k, v)
                    attended = attention(q, own, of_kind.own_QxC, scale, shared, of_kind.own_to_prompt_BxQxP)
                prompt_attended = _attention_of_prompts(prompt_q, shared, of_kind.prompt_QxC, scale)
                return packing.pack(prompt_attended, attended), shared.flat() if keep else None

            hidden, kept = block(hidden, attend, of_kind.rotation)
            return (beginning, hidden), kept

        hidden = self.embed(packing.pack(prompts.tokens_BxP[:, start:], tokens), all_positions)
        (_, hidden), layers = self._scan(layer, (self._embedded_beginning(prompts), hidden), of_kinds)
        return hidden, layers

    def _embedded_beginning(self, prompts: Prompts) -> jax.Array | None:
        """What the first layer reads of what all prompts begin with, [1, positions, D], where they do."""
        if not prompts.beginning:
            return None
        return self.embed(jnp.asarray(prompts.beginning)[None], jnp.arange(len(prompts.beginning))[None])

    def _of_beginning(self, kind, length: int) -> _OfKind | None:
        if not length:
            return None
        steps = jnp.arange(length)
        return _OfKind(self._rotation(kind, steps[None]), is_visible(steps, steps, kind.window_within(length)))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Next-token logits [.., V] of at least float32; -inf in the columns that pad the vocabulary."""
        accumulate = jnp.promote_types(hidden.dtype, jnp.float32)
        logits = jnp.einsum("...d,vd->...v", hidden, self._head, preferred_element_type=accumulate)
        is_padding = jnp.arange(self.architecture.padded_vocab_size) >= self.architecture.vocab_size
        return jnp.where(trailing(is_padding, logits.ndim), -jnp.inf, logits)

    def logit_gradients(self, tokens: jax.Array) -> jax.Array:
        """The gradient [.., D] of each token's logit by the hidden state that it is read from."""
        return self._head[tokens]

    def mean_logit_gradient(self, weights: jax.Array) -> jax.Array:
        """The mean [.., D] over the vocabulary of these gradients under weights [.., V], in the weights' dtype."""
        head = self._head
        return jnp.einsum("...v,vd->...d", weights.astype(head.dtype), head, preferred_element_type=weights.dtype)

    @property
    def _head(self) -> jax.Array:
        return self._weight("token_embedding" if self.head is None else "head")

    def _weight(self, name: str) -> jax.Array:
        weight = getattr(self, name)[...]
        return self._whole((name,), weight)

    def _whole(self, path: Path, weight: jax.Array) -> jax.Array:
        """The weight at a path as the computation needs it, all of its axes, or those of one layer."""
        whole = self.layout.whole
        return weight if whole is None else whole(self.architecture.weight_axes(path, weight.ndim), weight)

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """What the first layer reads, [.., D]."""
        embedded = self._weight("token_embedding")[tokens]
        if (scale := self.architecture.embedding_scale) is not None:
            embedded *= jnp.asarray(scale, embedded.dtype)
        if self.position_embedding is not None:
            embedded += self._weight("position_embedding")[positions]
        return self.layout.spread(embedded)

    def _rotation(self, kind, positions: jax.Array) -> Rotation | None:
        return kind.rotary and Rotation.at(kind.rotary, positions, self.token_embedding[...].dtype)

    def rotations(self, positions: jax.Array) -> list[Rotation | None]:
        """For every kind of layer the rotation at these positions."""
        return [self._rotation(kind, positions) for kind in self.architecture.kinds]

    def separate_blocks(self) -> list[Callable[[jax.Array], Block]]:
        """The layers, their weights taken out of the stacks, with the adapter merged in where that loses nothing.

        Each is a function of a loop's step, whose weights are put together, where they are spread over devices
        or quantised, in that step and not before.
        """
        graphdef, state = nnx.split(self.blocks)
        whole = self.layout.whole

        def separate(layer: int) -> Callable[[jax.Array], Block]:
            own = jax.tree.map(lambda weight: weight[layer], state)
            if whole is None and not self.quantize:
                block = nnx.merge(graphdef, own)
                block.set_for_decoding(self.layout)
                return lambda step: block

            def put_together(step: jax.Array) -> Block:
                spread, _ = jax.lax.optimization_barrier((own, step))
                return nnx.merge(graphdef, self._whole_block(spread))

            return put_together

        return [separate(layer) for layer in range(self.architecture.depth)]

    def _whole_block(self, state):
        if self.layout.whole is None:
            return state
        return jax.tree_util.tree_map_with_path(
            lambda path, weight: checkpoint_name(self._whole(_block_path(path), weight), _WHOLE), state
        )

    def _scan(self, layer, carry, of_kinds: Sequence[Any]):
        """Runs `layer(carry, block, of its kind)` over the stacked blocks."""
        graphdef, state = nnx.split(self.blocks)
        which = None
        if len(of_kinds) > 1:
            which = jnp.asarray(self.architecture.kind_of_layer)
            stacked = jax.tree.map(lambda *values: jnp.stack(jnp.broadcast_arrays(*values)), *of_kinds)

        def step(carry, of_layer):
            block_state, kind = of_layer
            own = of_kinds[0] if kind is None else jax.tree.map(lambda values: values[kind], stacked)
            return layer(carry, nnx.merge(graphdef, self._whole_block(block_state)), own)

        if self.remat:
            step = jax.checkpoint(step)
        elif self.layout.whole is not None:  # or the backward pass would find all layers' whole weights kept for it
            step = jax.checkpoint(step, policy=jax.checkpoint_policies.save_anything_except_these_names(_WHOLE))
        return jax.lax.scan(step, carry, (state, which))


def _last(prompts: Prompts, hidden_BxQxD: jax.Array) -> jax.Array:
    """Of hidden states behind the beginning each prompt's last one, [B, D]."""
    last_B = prompts.length_B - 1 - len(prompts.beginning)
    return jnp.take_along_axis(hidden_BxQxD, last_B[:, None, None], axis=1)[:, 0]


def _begun(hidden_1xQxD: jax.Array | None, block: Block, of_kind: _OfKind | None, scale: float):
    """A layer's part in what all prompts begin with: its hidden states, keys and values; nothing of nothing."""
    if hidden_1xQxD is None or of_kind is None:
        return None, None

    def attend(q, k, v):
        seen = KeyValues(k, v)
        return _attention_of_prompts(q, seen, of_kind.prompt_QxC, scale), seen

    return block(hidden_1xQxD, attend, of_kind.rotation)


def _attention_of_prompts(q_BxQxGxMxK: jax.Array, seen: KeyValues, mask_QxC: jax.Array, scale: float) -> jax.Array:
    """Attention of prompts to themselves, [B, Q, G, M, K]."""
    return attention(q_BxQxGxMxK[:, None], jax.tree.map(lambda x: x[:, None], seen), mask_QxC, scale)[:, 0]


def _behind(before: KeyValues | None, own: KeyValues) -> KeyValues:
    """What all rows begin with, of one row, and each row's own behind it."""

    def join(first_1xPxGxK, rest_BxQxGxK):
        repeated = jnp.broadcast_to(first_1xPxGxK, (rest_BxQxGxK.shape[0], *first_1xPxGxK.shape[1:]))
        return jnp.concatenate([repeated, rest_BxQxGxK], 1)

    return own if before is None else jax.tree.map(join, before, own)


def _block_path(path: tuple) -> Path:
    """Where a weight of one layer lives in the stacked blocks."""
    return ("blocks", *(str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)))
