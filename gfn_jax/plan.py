"""Says what a run needs of a machine that is not here: compiles all of its programs for it, from shapes alone.

python -m gfn_jax.plan --config configs/NAME.py [--config.key=value ...] --target v5e:2x4|v5p:2x2x1|v6e:2x2|h100:8|...
    [--lengths 64] [--compared 8] [--json FILE]

Nothing is trained, and neither weights nor data are read: only the model's config.json, unless its size is a published
one. A target is described by a file of gfn_jax/planning/targets/, or of your own: --target DIR/NAME.toml:8.
"""

import dataclasses
import json
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from gfn_jax.config import command_line
from gfn_jax.runtime.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", help_string="a Python file with get_config(), as in configs/")
_TARGET = flags.DEFINE_string("target", None, "a machine, such as h100:8 or v5e:2x4", required=True)
_LENGTHS = flags.DEFINE_list("lengths", [], "of data.prompt_buckets those to compile for; default: the longest alone")
_COMPARED = flags.DEFINE_integer(
    "compared",
    0,
    "how many continuations of each prompt, 2 or more, gfn_jax.evaluate would compare: what it draws them by is "
    "compiled too; 0: none",
    lower_bound=0,
)
_JSON = flags.DEFINE_string("json", "", "a file to write all figures to")


def main() -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")  # what compiles for a device that is not here must not look for it
    from rich.console import Console

    from gfn_jax.models.hf_architecture import named_architecture
    from gfn_jax.planning.compiling import plan
    from gfn_jax.planning.page import plan_table, verdict
    from gfn_jax.planning.targets import find_target
    from gfn_jax.runtime.startup import configure_jax

    config, console = command_line.read_config_flag(_CONFIG), Console()
    try:
        lengths = sorted(int(length) for length in _LENGTHS.value) or [max(config.data.prompt_buckets)]
    except ValueError as error:
        raise UserError(f"--lengths: {_LENGTHS.value} are no numbers of tokens") from error
    if _COMPARED.value == 1:
        raise UserError("--compared 1: a prompt needs 2 continuations or more, or 0 for no comparison")
    target = find_target(_TARGET.value)
    configure_jax(config.model.dtype, config.model.matmul_precision)
    jax.config.update(
        "jax_enable_compilation_cache", False
    )  # what is compiled here cannot be read again without a device
    architecture = named_architecture(config.model.name_or_path)
    console.print(f"{config.model.name_or_path} for {target.description}, compiled from shapes alone ...")

    made = plan(
        config,
        architecture,
        target,
        lengths=lengths,
        compared=_COMPARED.value,
        on_program=lambda each: console.print(
            f"compiled {each.name} for prompts of {each.length} tokens in {each.seconds:.0f} s", highlight=False
        ),
    )
    console.print(plan_table(made))
    for line in verdict(made, config):
        console.print(line, soft_wrap=True)
    if _JSON.value:
        figures = dataclasses.asdict(dataclasses.replace(made, target=dataclasses.replace(target, devices=())))
        Path(_JSON.value).write_text(json.dumps(figures | {"peak": made.peak, "fits": made.fits}, indent=1) + "\n")


if __name__ == "__main__":
    command_line.run(main)
