"""Log-probabilities of given continuations, by one teacher-forced pass over all of their states."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gfn_jax.models.language_model import LanguageModel
from gfn_jax.models.packing import Packing, in_room, rooms
from gfn_jax.policy.masks import Rules, mask_logits, support_tolerance
from gfn_jax.policy.read_out import States, read_out
from gfn_jax.types import Prompts, Scores, Trajectories, checked

T = TypeVar("T")


@checked
def reached(trajectories: Trajectories) -> tuple[Bool[Array, "N L"], Bool[Array, "N T"]]:
    """Which tokens belong to each trajectory, and which states it got to."""
    steps = jnp.arange(trajectories.tokens_NxL.shape[1] + 1)[None, :]
    length = trajectories.length_N[:, None]
    return steps[:, :-1] < length, steps <= length


@checked
def score(
    policy: LanguageModel,
    frozen: LanguageModel,
    rules: Rules,
    prompts: Prompts,
    trajectories: Trajectories,
    room: int | None = None,
) -> Scores:
    """The policy's log-probabilities along the trajectories, under the same masks as in sampling.

    A token that the masks forbid at its state has log-probability -inf. To be differentiated, the pass wants to be
    told the `room` of its rows, at least `Packing.room_for`'s (`models/packing.py`); else it finds out.
    """
    tokens_BxSxL = _by_prompt(prompts, trajectories.tokens_NxL)
    tolerance = support_tolerance(policy.token_embedding[...].dtype)

    def mask(logits_WxCxV: jax.Array, chunk: States) -> jax.Array:
        frozen_hidden = chunk.frozen_hidden_WxUxD
        frozen_logits = None if frozen_hidden is None else frozen.logits(frozen_hidden)
        return mask_logits(
            rules, logits_WxCxV, chunk.step_WxU, frozen_logits, drawn=chunk.drawn_WxU, tolerance=tolerance
        )

    def compute(packing: Packing) -> tuple[jax.Array, jax.Array]:
        states = _states(prompts, trajectories, rules.terminator, packing)
        if rules.needs_frozen_logits:
            states = states._replace(frozen_hidden_WxUxD=frozen.states(prompts, tokens_BxSxL, packing))
        hidden_WxUxD = policy.states(prompts, tokens_BxSxL, packing)
        drawn, end = read_out(policy, hidden_WxUxD, states, rules.terminator, mask=mask)
        return _of_states(packing, drawn), _of_states(packing, end)

    log_drawn_NxT, log_terminator = _with_packing(compute, policy, prompts, trajectories, room)
    is_token_NxL, is_state_NxT = reached(trajectories)
    # At the support's edge rounding may differ from the sampler's: what it could not stop at has no reward.
    is_terminable_NxT = is_state_NxT & trajectories.is_terminable_NxT & (log_terminator > -jnp.inf)
    return Scores(
        log_pf_NxL=jnp.where(is_token_NxL, log_drawn_NxT[:, :-1], 0),
        log_pterm_NxT=jnp.where(is_terminable_NxT, log_terminator, 0),
        is_terminable_NxT=is_terminable_NxT,
    )


def only_last_state(scores: Scores, trajectories: Trajectories) -> Scores:
    """The scores with every trajectory terminable at its last state alone, as a terminal reward sees it."""
    is_last_NxT = jnp.arange(scores.is_terminable_NxT.shape[1])[None, :] == trajectories.length_N[:, None]
    return Scores(scores.log_pf_NxL, scores.log_pterm_NxT, scores.is_terminable_NxT & is_last_NxT)


@checked
def frozen_log_probs(
    frozen: LanguageModel, prompts: Prompts, trajectories: Trajectories, terminator: int
) -> tuple[Float[Array, "N L"], Float[Array, "N T"]]:
    """The frozen model's own log p(y_{t+1} | s_t) and log p(⊤ | s_t) over its full vocabulary: no masks.

    Zero at tokens and states that the trajectory does not reach.
    """
    tokens_BxSxL = _by_prompt(prompts, trajectories.tokens_NxL)

    def compute(packing: Packing) -> tuple[jax.Array, jax.Array]:
        states = _states(prompts, trajectories, terminator, packing)
        drawn, end = read_out(frozen, frozen.states(prompts, tokens_BxSxL, packing), states, terminator)
        return _of_states(packing, drawn), _of_states(packing, end)

    log_drawn_NxT, log_terminator = _with_packing(compute, frozen, prompts, trajectories, None)
    is_token_NxL, is_state_NxT = reached(trajectories)
    return jnp.where(is_token_NxL, log_drawn_NxT[:, :-1], 0), jnp.where(is_state_NxT, log_terminator, 0)


def _with_packing(
    compute: Callable[[Packing], T],
    model: LanguageModel,
    prompts: Prompts,
    trajectories: Trajectories,
    room: int | None,
) -> T:
    """`compute` with the trajectories in rows of this room, or else of one that is chosen as they are long."""
    longest, layout = trajectories.tokens_NxL.shape[1], model.layout
    length_BxS = trajectories.length_N.reshape(prompts.length_B.shape[0], -1)

    def of_room(room: int) -> T:
        return compute(Packing.of(prompts, length_BxS, longest, room, layout.shards))

    if room is not None:
        return of_room(room)
    whole = Packing.whole(prompts, length_BxS.shape[1], longest, layout.shards)
    choices = rooms(model.architecture.layer_weights, layout, whole)
    return in_room(of_room, choices, whole.room_for(prompts, length_BxS))


def _by_prompt(prompts: Prompts, values_NxT: jax.Array) -> jax.Array:
    """[N, T] -> [B, S, T]"""
    return values_NxT.reshape(prompts.length_B.shape[0], -1, values_NxT.shape[-1])


def _states(prompts: Prompts, trajectories: Trajectories, terminator: int, packing: Packing) -> States:
    drawn_BxSxT = _by_prompt(prompts, _drawn_items(trajectories, terminator))
    step_BxSxT = jnp.broadcast_to(jnp.arange(drawn_BxSxT.shape[-1]), drawn_BxSxT.shape)
    return States(packing.together(step_BxSxT), packing.together(drawn_BxSxT), None)


def _of_states(packing: Packing, values_WxU: jax.Array) -> jax.Array:
    """[W, U] -> [N, T]"""
    apart_BxSxT = packing.apart(values_WxU)
    return apart_BxSxT.reshape(-1, apart_BxSxT.shape[-1])


def _drawn_items(trajectories: Trajectories, terminator: int) -> Int[Array, "N T"]:
    """The item that was drawn at every state: ⊤ at a trajectory's last one, and behind it."""
    is_token_NxL, _ = reached(trajectories)
    drawn_NxL = jnp.where(is_token_NxL, trajectories.tokens_NxL, terminator)
    return jnp.pad(drawn_NxL, [(0, 0), (0, 1)], constant_values=terminator)
