"""The commands as one: `gfn-jax COMMAND`, or `python -m gfn_jax COMMAND`; each is `python -m gfn_jax.COMMAND` too."""

import ast
import os
import runpy
import sys
from pathlib import Path

COMMANDS = ("train", "sample", "evaluate", "report", "sweep", "export", "seed_replay", "plan")


def main() -> None:
    """Runs the command that the first argument names, or lists all."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        sys.argv = [f"gfn-jax {name}", *sys.argv[2:]]
        sys.path.insert(0, os.getcwd())  # as `python -m` does: configurations and recipes are imported from there
        runpy.run_module(f"gfn_jax.{name}", run_name="__main__", alter_sys=True)
        return
    if name.lstrip("-") not in ("help", "h"):
        sys.exit(f"error: there is no command {name!r}; there are {', '.join(COMMANDS)}")
    print("GFlowNet fine-tuning of language models in JAX. Each command has --help:\n")
    for command in COMMANDS:
        # Read, not imported: each command defines flags of its own.
        source = Path(__file__).with_name(f"{command}.py").read_text(encoding="utf-8")
        first_line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        print(f"  gfn-jax {command:<12} {first_line}")


if __name__ == "__main__":
    main()
