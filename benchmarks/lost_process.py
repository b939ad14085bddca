"""What happens when one process of several is killed: how soon do the others end, and does the relaunch go on?

    python benchmarks/lost_process.py [--processes 4] [--faults FAULT ...] [--out docs/results/lost_process.json]

For the process that coordinates (0) and for another: kills it by SIGKILL while the miniature trains, waits for
the others, starts the same command again, and compares the end with that of a run that was left in peace.
And the same with a SIGTERM to one process, after which all save and end well.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from machine import describe
from processes import Run, heed_sigterm
from rich.console import Console
from run_files import json_lines, without_times

STEPS = 16
LIMIT_S = 560.0
FAULTS = {  # which process is sent what; -1: the last
    "coordinator killed": (0, signal.SIGKILL),
    "other killed": (-1, signal.SIGKILL),
    "other stopped": (-1, signal.SIGTERM),
}
SHORT = {
    "train.steps": STEPS,
    "train.prompts_per_step": 8,
    "train.microbatch_prompts": 8,
    "train.checkpoint_every": 2,
    "train.eval_every": 100,
    "eval.samples_per_prompt": 4,
    "eval.prompts_per_batch": 16,
    "data.val_prompts": 16,
    "replay.fraction": 0.25,
}


def start(workdir: Path, processes: int) -> Run:
    settings = SHORT | {"mesh.data": processes}
    overrides = [f"--config.{key}={value}" for key, value in settings.items()]
    command = ["-m", "gfn_jax.train", "--config=configs/next_sentence_mini.py", f"--workdir={workdir}", *overrides]
    return Run(command, processes=processes, devices=1, log=workdir.with_suffix(".log"))


def outcome(workdir: Path) -> dict:
    about = json.loads((workdir / "checkpoints" / str(STEPS) / "about" / "metadata").read_text())
    return {"digest": about["digest"], "metrics": without_times(json_lines(workdir / "metrics.jsonl"))}


def last_step(workdir: Path) -> int:
    file = workdir / "metrics.jsonl"
    return max((row["step"] for row in json_lines(file)), default=0) if file.exists() else 0


def lose(workdir: Path, processes: int, victim: int, sent: signal.Signals) -> dict:
    """Sends a signal to one process in the middle of a run; what the others do."""
    with start(workdir, processes) as run:
        until = time.monotonic() + LIMIT_S
        while last_step(workdir) < STEPS // 2:
            if time.monotonic() > until or run.processes[victim].poll() is not None:
                raise RuntimeError(f"no step {STEPS // 2}: {run.said(0)[-2000:]}")
            time.sleep(0.05)
        run.processes[victim].send_signal(sent)
        since = time.monotonic()
        statuses = run.wait(120)
        seconds = time.monotonic() - since
        messages = {}
        for index in range(processes):
            lines = run.said(index).splitlines()
            signs = ("error: ", "stopped by ")
            said = [line for line in lines if line.startswith(signs) or "another task died" in line]
            messages[index] = said[0].replace(str(workdir), "DIR")[:300] if said else ""
    told = {"process": victim, "sent": sent.name, "all_ended_after_s": round(seconds, 1), "statuses": statuses}
    return told | {"messages": messages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    heed_sigterm()
    console, results, failed = Console(), [], False
    with tempfile.TemporaryDirectory(prefix="gfn_jax_lost_") as directory:
        with start(Path(directory) / "calm", args.processes) as run:
            run.finish(LIMIT_S)
        expected = outcome(Path(directory) / "calm")
        for victim, sent in (FAULTS[name] for name in args.faults):
            victim %= args.processes
            workdir = Path(directory) / f"lost-{victim}-{sent.name}"
            result = lose(workdir, args.processes, victim, sent)
            with start(workdir, args.processes) as run:
                run.finish(LIMIT_S)
                resumed = [line for line in run.said(0).splitlines() if "going on after" in line]
            result["resumed"] = resumed[0][:40] if resumed else "not at all"
            result["same_end"] = outcome(workdir) == expected
            if sent == signal.SIGKILL:
                is_well = all(message for index, message in result["messages"].items() if index != victim)
            else:
                is_well = not any(result["statuses"]) and "stopped by SIGTERM" in result["messages"][0]
            failed |= not (result["same_end"] and is_well and result["all_ended_after_s"] < 60)
            results.append(result)
            console.print_json(data=result)
    if args.out:
        args.out.write_text(json.dumps({"processes": args.processes, "runs": results, **describe()}, indent=1) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
