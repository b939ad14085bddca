"""A batch's rows as what a replay buffer keeps of them."""

import jax
import numpy as np

from gfn_jax.experiment.experiment import Experiment
from gfn_jax.replay.entry import Entry
from gfn_jax.rewards.protocol import Components
from gfn_jax.text.prompts import normalised
from gfn_jax.types import Trajectories


class RowEntries:
    """Makes rewarded trajectories into entries."""

    def __init__(self, experiment: Experiment):
        self._experiment = experiment
        self._log_r = jax.jit(experiment.final_log_r, out_shardings=experiment.rows.sharding)

    def final_log_r(self, components: Components) -> jax.Array:
        """The scores of all states, as the end of training has them: what `of` needs beside the rows themselves."""
        return self._log_r(components)

    def of(
        self, step: int, trajectories: Trajectories, components: Components, final_log_r_NxT: jax.Array
    ) -> list[Entry | None]:
        """This process's rows as the buffer keeps them; None where one has no finite reward, or no place to stop."""
        host, terms, log_r = self._experiment.rows.fetch((trajectories, dict(components), final_log_r_NxT))
        texts = self._experiment.texts(trajectories)
        entries: list[Entry | None] = []
        for row, (text, length) in enumerate(zip(texts, host.length_N.tolist(), strict=True)):
            states = length + 1
            mask = host.is_terminable_NxT[row, :states]
            values = {name: _as_float(term[row, :states]) for name, term in terms.items()}
            is_good = mask[length] and all(np.isfinite(value[mask]).all() for value in values.values())
            score = float(log_r[row, length])
            entries.append(
                Entry(host.tokens_NxL[row, :length].copy(), mask.copy(), values, normalised(text), score, step)
                if is_good and np.isfinite(score)
                else None
            )
        return entries


def _as_float(values: np.ndarray) -> np.ndarray:
    """A copy in the precisions that entries are written in."""
    return values.astype(np.float64 if values.dtype == np.float64 else np.float32)
