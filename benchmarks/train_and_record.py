"""`python -m gfn_jax.train`, which also writes the tokens that every step was trained on to WORKDIR/tokens.npz."""

from pathlib import Path

from absl import flags

import gfn_jax.train as command
from gfn_jax.config import command_line


def main() -> None:
    import numpy as np

    from gfn_jax.runtime import distributed
    from gfn_jax.training import loop
    from gfn_jax.training.pipeline import Drawn, Pipeline

    steps: dict[str, np.ndarray] = {}

    class Recorded(Pipeline):
        def advance(self, adapter) -> Drawn:
            drawn = super().advance(adapter)
            steps[str(len(steps))] = distributed.fetch(drawn.trajectories.tokens_NxL)
            return drawn

    loop.Pipeline = Recorded
    command.main()
    if distributed.is_main():
        np.savez(Path(flags.FLAGS.workdir) / "tokens.npz", allow_pickle=False, **steps)


if __name__ == "__main__":
    command_line.run(main)
