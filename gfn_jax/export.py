"""Exports a trained policy as a PEFT adapter, or with --merged as a whole Hugging Face model.

python -m gfn_jax.export --workdir runs/NAME --out DIR [--merged [--dtype bfloat16]] [--checkpoint last]
    [--override mesh.model=4]
"""

from absl import flags

from gfn_jax.config import command_line
from gfn_jax.runtime.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory", required=True)
_OUT = flags.DEFINE_string("out", None, "the directory to write, which must not be there yet", required=True)
_MERGED = flags.DEFINE_bool("merged", False, "write a whole model, with the adapter added to its weights")
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16", "float16"], "of a merged model; in fewer bits the adapter is rounded"
)
_OVERRIDE = flags.DEFINE_multi_string("override", [], command_line.OVERRIDE)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "whose policy: best (by the figure train.keep_best), last, or a step"
)
_TRUST_CODE = flags.DEFINE_bool("trust_code", False, command_line.TRUST_CODE)


def main() -> None:
    from rich.console import Console

    from gfn_jax.api import open_run

    if _DTYPE.present and not _MERGED.value:
        raise UserError("--dtype is of a merged model; an adapter is always in float32: add --merged, or leave it out")
    run = open_run(_WORKDIR.value, _CHECKPOINT.value, overrides=_OVERRIDE.value, trust_code=_TRUST_CODE.value)
    run.export(_OUT.value, merged=_MERGED.value, dtype=_DTYPE.value, progress=Console())


if __name__ == "__main__":
    command_line.run(main)
