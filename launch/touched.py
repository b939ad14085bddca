"""The tests that a change asks for first, one path a line: of the files that differ from the last commit, or in it.

python -m launch.touched

A module's test is that of its name, in its room; without one, all of its room's that are no module's own. Always among
them is a core that takes seconds.
"""

import subprocess
from pathlib import Path

CORE = ("tests/test_objectives.py", "tests/test_config.py", "tests/test_package.py", "tests/policy/test_prefix_tree.py")


def main() -> None:
    changed = _git("diff", "--name-only", "HEAD") + _git("ls-files", "--others", "--exclude-standard")
    found: set[str] = set(CORE)
    for name in changed or _git("diff", "--name-only", "HEAD~1"):
        found.update(tests_of(Path(name)))
    print("\n".join(sorted(each for each in found if Path(each).exists())))


def tests_of(file: Path) -> set[str]:
    """The tests of a changed file."""
    if file.parts[0] == "tests":
        return {str(file)} if file.name.startswith("test_") else set()
    if file.name == "README.md":
        return {"tests/test_docs.py", "tests/test_api.py"}
    if file.suffix == ".md" or file.parts[0] in ("docs", ".mdformat.toml"):
        return {"tests/test_docs.py"}
    if file.parts[0] in ("launch", "examples"):
        return {"tests/launch"} if file.parts[0] == "launch" else {"tests/test_examples.py"}
    if file.parts[0] != "gfn_jax" or file.suffix != ".py":
        return set()
    own = Path("tests", *file.parts[1:-1], f"test_{file.name}")
    if own.exists():
        return {str(own)}
    room = Path("gfn_jax", *file.parts[1:-1])
    there = {f"test_{each.name}" for each in room.glob("*.py")}
    return {str(each) for each in own.parent.glob("test_*.py") if each.name not in there}


def _git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.split()


if __name__ == "__main__":
    main()
