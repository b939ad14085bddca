"""`python -m gfn_jax.train`, which also writes the tokens that every step was trained on to WORKDIR/tokens.npz."""

from pathlib import Path

from absl import flags

from gfn_jax import commands
from gfn_jax import train as command


def main() -> None:
    import numpy as np

    from gfn_jax import training
    from gfn_jax.pipeline import Drawn, Pipeline
    from gfn_jax.runtime import distributed

    steps: dict[str, np.ndarray] = {}

    class Recorded(Pipeline):
        def advance(self, adapter) -> Drawn:
            drawn = super().advance(adapter)
            steps[str(len(steps))] = distributed.fetch(drawn.trajectories.tokens_NxL)
            return drawn

    training.Pipeline = Recorded
    command.main()
    if distributed.is_main():
        np.savez(Path(flags.FLAGS.workdir) / "tokens.npz", **steps)


if __name__ == "__main__":
    commands.run(main)
