"""Makes a run's report again, from the files in its directory: curves, comparisons and samples in one HTML file.

python -m gfn_jax.report --workdir runs/NAME
"""

from pathlib import Path

from absl import flags

from gfn_jax.config import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "the run's directory", required=True)


def main() -> None:
    from gfn_jax.reporting.page import write_report

    print(f"wrote {write_report(Path(_WORKDIR.value))}")


if __name__ == "__main__":
    command_line.run(main)
