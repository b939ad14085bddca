"""Lists the commands: `python -m gfn_jax`."""

import ast
from pathlib import Path

COMMANDS = ("train", "sample", "evaluate", "report", "sweep", "export", "seed_replay")


def main() -> None:
    print("GFlowNet fine-tuning of language models in JAX. Each command has --help:\n")
    for name in COMMANDS:
        # Read, not imported: each command defines flags of its own.
        source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        first_line = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
        print(f"  python -m gfn_jax.{name:<12} {first_line}")


if __name__ == "__main__":
    main()
