"""GFlowNet fine-tuning of language models in JAX: train a policy that samples texts in proportion to a reward.

import gfn_jax

config = gfn_jax.load_config("configs/quickstart.py")
gfn_jax.train(config, "runs/mine")
with gfn_jax.open_run("runs/mine") as run:
    run.sample([{"subject": "Nulon", "edit_fact": "Nulon keeps a hen."}], n=4)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfn_jax.api import load_config as load_config
    from gfn_jax.api import open_adapter as open_adapter
    from gfn_jax.api import open_run as open_run
    from gfn_jax.api import train as train
    from gfn_jax.config.schema import Config as Config
    from gfn_jax.evaluation.judged_texts import Judges as Judges
    from gfn_jax.evaluation.results import Evaluation as Evaluation
    from gfn_jax.evaluation.samples import Sample as Sample
    from gfn_jax.policies import Policy as Policy
    from gfn_jax.policies import Run as Run
    from gfn_jax.runtime.errors import TrainingError as TrainingError
    from gfn_jax.runtime.errors import UserError as UserError
    from gfn_jax.training.loop import Trained as Trained

__version__ = "0.2.0"

_ROOMS = {  # what `import gfn_jax` offers; read when it is first asked for, so that importing starts no JAX
    "Config": "config.schema",
    "Evaluation": "evaluation.results",
    "Judges": "evaluation.judged_texts",
    "Policy": "policies",
    "Run": "policies",
    "Sample": "evaluation.samples",
    "Trained": "training.loop",
    "TrainingError": "runtime.errors",
    "UserError": "runtime.errors",
    "load_config": "api",
    "open_adapter": "api",
    "open_run": "api",
    "train": "api",
}
__all__ = [
    "Config",
    "Evaluation",
    "Judges",
    "Policy",
    "Run",
    "Sample",
    "Trained",
    "TrainingError",
    "UserError",
    "load_config",
    "open_adapter",
    "open_run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
