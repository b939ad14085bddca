"""Is anything lost when a run is killed? Kills runs of the miniature at random instants, and resumes them.

    python benchmarks/chaos.py [--repeats 5] [--kills 3] [--out docs/results/chaos.json]

For both replay buffers and both pipeline depths: one run goes through undisturbed; the others are
ended by SIGKILL, several times at random instants and once while a checkpoint is being written, and
started again each time until they are done. Then adapter, optimiser, waiting trajectories and replay
(by the digest that the last checkpoint holds), metrics and samples must be the same to the last bit,
times excepted, and the same checkpoints be kept. Every run is bounded in time; processes are ended by their ids.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from local_redis import local_redis
from machine import describe
from rich.console import Console
from run_files import json_lines, without_times

STEPS = 24
SHORT = {
    "train.steps": STEPS,
    "train.prompts_per_step": 4,
    "train.microbatch_prompts": 4,
    "train.checkpoint_every": 2,
    "train.eval_every": 12,
    "eval.samples_per_prompt": 4,
    "eval.probes": 2,
    "replay.fraction": 0.25,
}
LIMIT_S = 400.0  # for one start of a run


class Run:
    """A run's directory, and the process that trains in it."""

    def __init__(self, workdir: Path, config: str, settings: dict):
        self.workdir = workdir
        overrides = [f"--config.{key}={value}" for key, value in settings.items()]
        command = [sys.executable, "-m", "gfn_jax.train", f"--config={config}", f"--workdir={workdir}"]
        self._command = [*command, *overrides]

    def start(self) -> subprocess.Popen:
        log = (self.workdir.parent / f"{self.workdir.name}.log").open("a")
        return subprocess.Popen(self._command, stdout=log, stderr=log)

    def finish(self) -> None:
        process = self.start()
        try:
            code = process.wait(LIMIT_S)
        finally:
            process.kill()
        if code:
            raise RuntimeError(f"{self.workdir} ended with status {code}: see its log")

    def kill(self, rng: random.Random, *, while_saving: bool) -> str:
        """Starts the run and kills it: when, or that it was done before."""
        process, lines = self.start(), self._lines()
        deadline = time.monotonic() + LIMIT_S
        while self._lines() <= lines and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if while_saving:
            while not self._is_saving() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.0005)
        else:
            time.sleep(rng.uniform(0.0, 2.0))
        if process.poll() is not None:
            return "done before"
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        was_saving = self._is_saving()
        _, left = psutil.wait_procs(children, timeout=20)
        for child in left:
            child.kill()
        orphans = f", {len(left)} processes left behind" if left else ""
        return f"killed after {self._lines()} lines{' in a save' if was_saving else ''}{orphans}"

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
        return file.read_text().count("\n") if file.exists() else 0

    def _is_saving(self) -> bool:
        return any((self.workdir / "checkpoints").glob("*tmp*"))


def torment(directory: Path, name: str, config: str, settings: dict, args, console: Console) -> dict:
    """One undisturbed run, and the others compared with it."""
    calm = Run(directory / f"{name}-calm", config, settings)
    calm.finish()
    expected, same, log = calm.outcome(), [], []
    for repeat in range(args.repeats):
        rng = random.Random(f"{name} {repeat}")
        run = Run(directory / f"{name}-{repeat}", config, settings)
        saving = rng.randrange(args.kills)
        events = [run.kill(rng, while_saving=kill == saving) for kill in range(args.kills)]
        while not any("in a save" in event for event in events) and len(events) < 3 * args.kills:
            events.append(run.kill(rng, while_saving=True))
        run.finish()
        outcome = run.outcome()
        differing = [key for key, value in expected.items() if outcome[key] != value]
        same.append(not differing)
        log.append(events)
        console.print(
            f"{name}, run {repeat}: {'; '.join(events)}: {'the same' if not differing else f'{differing} differ'}",
            soft_wrap=True,
        )
    return {"identical": sum(same), "runs": len(same), "events": log}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    console, results = Console(), {}
    with local_redis() as server, tempfile.TemporaryDirectory(prefix="gfn_jax_chaos_") as directory:
        for backend in ("memory", "redis"):
            for depth in (0, 1):
                name = f"{backend}-depth-{depth}"
                settings = SHORT | {
                    "replay.backend": backend,
                    "replay.url": server.url,
                    "train.pipeline_depth": depth,
                }
                results[name] = torment(Path(directory), name, args.config, settings, args, console)
    for name, result in results.items():
        console.print(f"{name}: {result['identical']} of {result['runs']} the same")
    if args.out:
        args.out.write_text(json.dumps({"config": args.config, **results, **describe()}, indent=1) + "\n")
    orphans = "left behind" in json.dumps(results)
    if orphans or any(result["identical"] < result["runs"] for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
