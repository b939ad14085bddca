"""Does whatever is wrong with an input end in one clear line? Feeds changed files and flags to all that reads them.

    python benchmarks/fuzz.py [--kind architecture,gguf] [--inputs 300] [--seed 0] [--out docs/results/fuzz.json]
    python benchmarks/fuzz.py --kind gguf --seed 0 --only 17

Each input is made of a whole one by random changes that (kind, seed, number) determine, and must end in a result or in
one line, a `UserError` or a `TrainingError`, within a time and in memory that are bounded, print no traceback of what
nobody can catch, and write nothing outside of the directory for it. With --only a single input is read, and how it
fails is shown. What --out holds of other kinds stays there. Ends with status 1 where an input ended otherwise, or
something was written elsewhere.
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT_S = 30.0
_MEMORY = 16 * 2**30
_VALUES = re.compile(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"|\S*/\S*|[-+]?\d[\d.e+-]*")
_PATHS = {
    "open": [(0, None)],
    "os.mkdir": [(0, 2)],
    "os.remove": [(0, 1)],
    "os.rename": [(0, 2), (1, 3)],
    "os.rmdir": [(0, 1)],
    "os.symlink": [(1, 2)],
}
"""Which arguments of an event of the interpreter's are paths, and which the open directories that these start from."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Outcomes:
    """What became of a kind's inputs; `unexpected` by the exception and where it was raised."""

    def __init__(self) -> None:
        self.inputs = self.results = 0
        self.messages: Counter[str] = Counter()
        self.unexpected: dict[str, dict[str, Any]] = {}

    def add(self, number: int, error: BaseException | None) -> None:
        from gfn_jax.runtime.errors import TrainingError, UserError

        self.inputs += 1
        if error is None:
            self.results += 1
        elif isinstance(error, UserError | TrainingError) and "\n" not in str(error):
            self.messages[_VALUES.sub("_", str(error))] += 1
        else:
            key = f"{type(error).__name__} at {_place(error)}"
            first = {"number": number, "message": " ".join(str(error).split())[:200], "count": 0}
            self.unexpected.setdefault(key, first)["count"] += 1

    def summary(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "results": self.results,
            "errors": self.messages.total(),
            "distinct_messages": len(self.messages),
            "unexpected": self.unexpected,
        }


class Watch:
    """Takes down what is opened for writing, made, moved or removed outside of a directory."""

    def __init__(self, directory: Path):
        self._directory, self.outside = f"{directory}{os.sep}", Counter[str]()
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
            return
        for path, directory in _PATHS.get(event, []):
            if isinstance(name := arguments[path], str | bytes | Path):
                start = (
                    "." if directory is None or arguments[directory] == -1 else f"/proc/self/fd/{arguments[directory]}"
                )
                full = os.path.abspath(os.path.join(os.path.realpath(start), os.fsdecode(name)))
                if not full.startswith((self._directory, "/dev/", "/proc/")):
                    self.outside[full] += 1


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises `TimeoutError` in what takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_UNRAISABLE: list[BaseException] = []
"""What nobody can catch (in a destructor, in a coroutine that is closed) and Python prints with a traceback."""


def outcome(read: Any, kind: str, seed: int, number: int) -> BaseException | None:
    """How an input ended: None for a result."""
    _UNRAISABLE.clear()
    error = None
    try:
        with within(LIMIT_S):
            read(random.Random(f"{kind} {seed} {number}"))
    except KeyboardInterrupt:
        raise
    except BaseException as raised:  # a library's panic is no Exception
        error = raised
    return _UNRAISABLE[0] if _UNRAISABLE else error


def fuzz(read: Any, kind: str, seed: int, inputs: int) -> Outcomes:
    outcomes = Outcomes()
    for number in range(inputs):
        outcomes.add(number, outcome(read, kind, seed, number))
    return outcomes


def _place(error: BaseException) -> str:
    """The last line of the project's own that the exception came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/gfn_jax/" in frame.filename]
    if not frames:
        return "nowhere in gfn_jax"
    return f"gfn_jax/{frames[-1].filename.rpartition('/gfn_jax/')[2]}:{frames[-1].name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kind", default="", help="which, with commas between; all by default")
    parser.add_argument("--inputs", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of a single input")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gfn_jax_fuzz_") as name:
        place = Path(name)
        os.environ |= {"XDG_CACHE_HOME": name, "JAX_COMPILATION_CACHE_DIR": f"{name}/compiled", "TMPDIR": name}
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": f"{name}/hub", "MPLCONFIGDIR": f"{name}/matplotlib"}
        sys.dont_write_bytecode = True
        tempfile.tempdir = name
        from fuzz_targets import KINDS
        from machine import describe

        from gfn_jax.runtime.logs import leave_out_orbax

        sys.unraisablehook = lambda unraisable: _UNRAISABLE.append(unraisable.exc_value or unraisable.exc_type())
        leave_out_orbax()  # as all commands do
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.RLIM_INFINITY))
        watch = Watch(place)
        is_good = True
        found = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {}
        kinds = arguments.kind.split(",") if arguments.kind else list(KINDS)
        if unknown := set(kinds) - set(KINDS):
            parser.error(f"--kind: {', '.join(sorted(unknown))} is none of {', '.join(KINDS)}")
        for kind in kinds:
            directory = place / kind
            directory.mkdir()
            read = KINDS[kind](directory)
            if arguments.only is not None:
                error = outcome(read, kind, arguments.seed, arguments.only)
                print("a result" if error is None else "".join(traceback.format_exception(error)))
                continue
            watch.outside.clear()
            started = time.perf_counter()
            outcomes = fuzz(read, kind, arguments.seed, arguments.inputs)
            own = {**outcomes.summary(), "written_outside": dict(watch.outside), "seed": arguments.seed}
            own["seconds"] = round(time.perf_counter() - started, 1)
            print(f"{kind}: {json.dumps(own, indent=1)}", flush=True)
            found[kind] = own | describe()
            if arguments.out:
                watch.outside.clear()
                arguments.out.write_text(json.dumps(found, indent=1) + "\n")
            is_good = is_good and not (own["unexpected"] or own["written_outside"])
    if not is_good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
