"""Is anything lost when a run is killed? Kills runs of the miniature at random instants, and resumes them.

    python benchmarks/chaos.py [--runs 13] [--kills 3] [--cases NAME ...] [--minutes M] [--out docs/results/chaos.jsonl]

A case is a task (sentences or questions), a replay buffer (memory or Redis), a pipeline depth (0 or 1) and a number of
processes (1 or 2): 16 cases. Of each, one run goes through undisturbed; the others are ended by SIGKILL, several times
at random instants and once while a checkpoint is being written, and started again each time until they are done. Of
two processes either both are killed, or one, whose loss ends the other. Every other run also meets one of: a disk that
is full for the time of a start (files may not grow beyond a limit); a Redis server that is restarted empty; one that
comes back with what it held a while ago.

Then adapter, optimiser, waiting trajectories and replay (by the digest that the last checkpoint holds), metrics and
samples must be the same to the last bit, times excepted, and the same checkpoints be kept. After every run --out gets a
line more, and a run that it holds is not made again: it says which commit it is of. M bounds the whole in minutes,
after which the same command goes on. Commands for different cases may run beside each other and share a file. Every
start is bounded in time; processes are ended by their ids.
"""

import argparse
import dataclasses
import itertools
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil
from local_redis import LocalRedis, local_redis
from machine import describe
from processes import Run as Started
from processes import heed_sigterm
from rich.console import Console
from run_files import json_lines, without_times

from gfn_jax.runtime.cache import cache_directory

STEPS = 24
SHORT = {
    "train.steps": STEPS,
    "train.prompts_per_step": 4,
    "train.microbatch_prompts": 4,
    "train.checkpoint_every": 2,
    "train.eval_every": 12,
    "eval.samples_per_prompt": 4,
    "eval.prompts_per_batch": 8,
    "eval.probes": 2,
    "data.prompt_buckets": "(48,)",
    "replay.fraction": 0.25,
}
CONFIGS = {"sentences": "configs/next_sentence_mini.py", "questions": "configs/quickstart.py"}
LIMIT_S = 400.0  # for one start of a run
FULL_AT = 20_000  # bytes: the largest file on the full disk
# On CPUs the key of a compiled program holds its process's number, and JAX has process 0 alone write to the cache: the
# others would compile everything at every start. In the run that goes through undisturbed they write too.
KEEP_COMPILED = """
import runpy
from jax._src import compilation_cache, compiler

def write(key, seconds, name, backend, executable, callbacks):
    compilation_cache.put_executable_and_time(key, name, executable, backend, int(seconds))

compiler._cache_write = write
runpy.run_module("gfn_jax.train", run_name="__main__", alter_sys=True)
"""


@dataclasses.dataclass(frozen=True)
class Case:
    task: str
    backend: str
    depth: int
    processes: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.backend}-depth-{self.depth}-processes-{self.processes}"


CASES = [Case(*each) for each in itertools.product(CONFIGS, ("memory", "redis"), (0, 1), (1, 2))]


class Run:
    """A run's directory, and the processes that train in it."""

    def __init__(self, workdir: Path, case: Case, server: LocalRedis, *, keep_compiled: bool = False):
        self.workdir, self._case, self._server = workdir, case, server
        settings = SHORT | {
            "replay.backend": case.backend,
            "replay.url": server.url,
            "train.pipeline_depth": case.depth,
            "mesh.data": case.processes,
        }
        program = ["-c", KEEP_COMPILED] if keep_compiled else ["-m", "gfn_jax.train"]
        self._command = [*program, f"--config={CONFIGS[case.task]}", f"--workdir={workdir}"]
        self._command += [f"--config.{key}={value}" for key, value in settings.items()]

    def start(self) -> Started:
        log = self.workdir.parent / f"{self.workdir.name}.log"
        return Started(self._command, processes=self._case.processes, devices=1, log=log)

    def finish(self) -> None:
        with self.start() as started:
            started.finish(LIMIT_S)

    def kill(self, rng: random.Random, *, while_saving: bool) -> str:
        """Starts the run and kills it: when, or that it was done before."""
        lines, deadline = self._lines(), time.monotonic() + LIMIT_S
        with self.start() as started:
            processes = [psutil.Process(process.pid) for process in started.processes]

            def is_running() -> bool:
                return all(process.poll() is None for process in started.processes) and time.monotonic() < deadline

            while self._lines() <= lines and is_running():
                time.sleep(0.005)
            if while_saving:
                while not self._is_saving() and is_running():
                    time.sleep(0.0005)
            else:
                time.sleep(rng.uniform(0.0, 2.0))
            if not is_running():
                started.finish(LIMIT_S)
                return "done before"
            children = [child for process in processes for child in process.children(recursive=True)]
            victims = processes if rng.random() < 0.7 else [rng.choice(processes)]
            for process in victims:
                process.send_signal(signal.SIGKILL)
            was_saving = self._is_saving()
            started.wait(LIMIT_S)  # one that is left ends by itself
        _, left = psutil.wait_procs(children, timeout=20)
        for child in left:
            child.kill()
        orphans = f", {len(left)} processes left behind" if left else ""
        which = "" if len(victims) == len(processes) else f" of process {processes.index(victims[0])} alone"
        return f"killed after {self._lines()} lines{' in a save' if was_saving else ''}{which}{orphans}"

    def fill_disk(self) -> str:
        """Starts the run where no file may grow beyond a limit, until it ends: with one line, or done."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_AT, before[1]))
        try:
            started = self.start()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        with started:
            statuses = started.wait(LIMIT_S)
            said = [line for index in range(len(statuses)) for line in started.said(index).splitlines()]
        errors = [line for line in said if line.startswith(("error:", "Traceback"))]
        return f"disk full: statuses {statuses}, {errors[0][:160] if errors else 'no error'}"

    def restart_server(self, rng: random.Random, *, stale: bool) -> str:
        """Kills the run after a while, and has the server come back empty, or with what it held before this start."""
        held = self._server.dump()
        event = self.kill(rng, while_saving=False)
        self._server.stop()
        self._server.start()
        if stale:
            self._server.restore(held)
        return f"{event}; Redis restarted {f'with {len(held)} older keys' if stale else 'empty'}"

    def outcome(self) -> dict:
        """What must be the same, however often the run was killed."""
        about = json.loads((self.workdir / "checkpoints" / str(STEPS) / "about" / "metadata").read_text())
        return {
            "digest": about["digest"],
            "checkpoints": sorted(file.name for file in (self.workdir / "checkpoints").iterdir()),
            **{
                name: without_times(json_lines(self.workdir / name))
                for name in ("metrics.jsonl", "samples.jsonl", "validation.jsonl")
            },
        }

    def _lines(self) -> int:
        file = self.workdir / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def _is_saving(self) -> bool:
        return any((self.workdir / "checkpoints").glob("*tmp*"))


def torment(run: Run, case: Case, number: int, kills: int) -> list[str]:
    """Kills the run so many times, once in a save and every other run with something else; what happened."""
    rng = random.Random(f"{case.name} {number}")
    saving, events = rng.randrange(kills), []
    for kill in range(kills):
        events.append(run.kill(rng, while_saving=kill == saving))
        if kill == 0 and number % 2:
            others = ["disk"] if case.backend == "memory" else ["disk", "empty", "stale"]
            match others[number // 2 % len(others)]:
                case "disk":
                    events.append(run.fill_disk())
                case kind:
                    events.append(run.restart_server(rng, stale=kind == "stale"))
    while not any("in a save" in event for event in events) and len(events) < 3 * kills:
        events.append(run.kill(rng, while_saving=True))
    run.finish()
    return events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=13, help="of each case")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--cases", nargs="*", choices=[case.name for case in CASES], metavar="NAME", default=[])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    console, until = Console(), time.monotonic() + 60 * args.minutes
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_directory("compiled")))  # for all runs, also of two
    heed_sigterm()
    about = {"kills": args.kills, **describe()}
    runs = json_lines(args.out) if args.out and args.out.exists() else []
    done = {run["run"] for run in runs}
    with local_redis() as server, tempfile.TemporaryDirectory(prefix="gfn_jax_chaos_") as directory:
        for case in CASES:
            wanted = [number for number in range(args.runs) if f"{case.name} {number}" not in done]
            if not wanted or (args.cases and case.name not in args.cases):
                continue
            calm = Run(Path(directory) / f"{case.name}-calm", case, server, keep_compiled=True)
            calm.finish()
            expected = calm.outcome()
            for number in wanted:
                if time.monotonic() > until:
                    break
                run = Run(Path(directory) / f"{case.name}-{number}", case, server)
                events = torment(run, case, number, args.kills)
                outcome = run.outcome()
                differing = [key for key, value in expected.items() if outcome[key] != value]
                runs.append({"run": f"{case.name} {number}", "events": events, "differing": differing} | about)
                if args.out:
                    with args.out.open("a") as file:
                        file.write(json.dumps(runs[-1]) + "\n")
                said = "the same" if not differing else f"{differing} differ"
                console.print(f"{case.name} {number}: {'; '.join(events)}: {said}", soft_wrap=True)
    console.print(f"{sum(not each['differing'] for each in runs)} of {len(runs)} runs are the same")
    said = json.dumps(runs)
    if "left behind" in said or "Traceback" in said or any(each["differing"] for each in runs):
        sys.exit(1)


if __name__ == "__main__":
    main()
