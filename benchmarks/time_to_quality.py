"""Seconds of training until the validation's elbo has made 90% of its gain: this project against PyTorch.

    python benchmarks/time_to_quality.py [--seeds 3] [--steps 80] [--out docs/results/time_to_quality.json]

Next-sentence continuation in the miniature, from the empty continuation on (min_len 0), the same for both: prompts of
every step, masks, reward, objective, LoRA, optimiser and schedules. PyTorch (transformers and peft) at its best: all
prompts at once, `generate` without gradients, one teacher-forced pass. Its adapters are measured by our validation.
Runs follow one another, so each has the machine alone. Validation, and what happens before the first step, does not
count; the latter is given beside it.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from rich.console import Console
from rich.table import Table
from run_files import json_lines

EVAL_EVERY, SHARE = 5, 0.9


def settings(seed: int, steps: int) -> Any:
    from configs import next_sentence_mini
    from gfn_jax.config.reading import parse_config

    raw = next_sentence_mini.get_config().unlock()
    raw.seed, raw.sampling.min_len = seed, 0
    raw.train.steps = raw.train.decay_steps = steps
    raw.train.eval_every, raw.train.checkpoint_every = EVAL_EVERY, steps
    return parse_config(raw.to_dict())


def train_ours(seed: int, steps: int, workdir: Path) -> dict[str, Any]:
    """The validation's elbo at each measured step, and the seconds of training until then."""
    started = time.time()
    flags = {
        "seed": seed,
        "sampling.min_len": 0,
        "train.steps": steps,
        "train.decay_steps": steps,
        "train.eval_every": EVAL_EVERY,
        "train.checkpoint_every": steps,
    }
    command = [sys.executable, "-m", "gfn_jax.train", "--config", "configs/next_sentence_mini.py", "--workdir", workdir]
    command += [f"--config.{key}={value}" for key, value in flags.items()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = time.time() - started
    seconds, curve = 0.0, []
    for row in json_lines(workdir / "metrics.jsonl"):
        seconds += row.get("train/seconds", 0.0)
        if "val/elbo" in row:
            curve.append((row["step"], seconds, row["val/elbo"]))
    return {"curve": curve, "command_seconds": whole}


def train_theirs(seed: int, steps: int, directory: Path) -> None:
    """Trains in PyTorch and leaves its adapters and their times in the directory."""
    import jax.numpy as jnp
    import torch
    from safetensors.torch import save_file
    from torch_gflownet import Prompts, TorchAtBest

    from gfn_jax.experiment.examples import Examples
    from gfn_jax.experiment.experiment import build
    from gfn_jax.experiment.optimizer import make_schedule
    from gfn_jax.models import peft_adapters
    from gfn_jax.rewards.tempering import Temperature

    config = settings(seed, steps)
    with build(config) as experiment:
        examples = Examples.load(experiment.task, config.seed)
        encode = experiment.tokenizer.encode_prompt
        prompts = [
            [encode(experiment.task.prompt(each)) for each in examples.of_step(step, config.train.prompts_per_step)]
            for step in range(steps)
        ]
        schedule, reward = make_schedule(config.train), config.reward
        rates = [float(np.asarray(schedule(step))) for step in range(steps)]
        tempering = Temperature(reward.temperature_start, reward.temperature_end, reward.temperature_horizon)
        temperatures = [float(tempering.at(jnp.int32(step))) for step in range(steps)]
        vocabulary, terminator = experiment.structure.architecture.vocab_size, experiment.rules.terminator
        banned = ~np.asarray(experiment.rules.is_word_V)[:vocabulary]
        banned[terminator] = False
        np.save(directory / "banned.npy", banned)
        (directory / "adapter").mkdir()
        peft_adapters.save(directory / "adapter", experiment.adapter, experiment.structure, config.model.name_or_path)
    (directory / "model").symlink_to(Path(config.model.name_or_path).absolute())
    sampling = config.sampling
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    policy = TorchAtBest(
        directory,
        samples=sampling.samples_per_prompt,
        length=sampling.max_len,
        terminator=terminator,
        dtype=torch.float32,
        microbatch=config.train.prompts_per_step,
    )
    torch.manual_seed(seed)
    seconds, times = 0.0, {}
    for step in range(steps):
        started = time.perf_counter()
        for group in policy.optimizer.param_groups:
            group["lr"] = rates[step]
        policy.train_step(Prompts.padded(prompts[step]), temperatures[step])
        seconds += time.perf_counter() - started
        if (step + 1) % EVAL_EVERY == 0:
            times[step + 1] = seconds
            save_file(policy.adapter(), directory / f"{step + 1}.safetensors")
    (directory / "times.json").write_text(json.dumps(times))


def measure_theirs(seed: int, steps: int, directory: Path) -> None:
    from safetensors.numpy import load_file

    from gfn_jax.evaluation.validation import Validation
    from gfn_jax.experiment.examples import Examples
    from gfn_jax.experiment.experiment import build
    from gfn_jax.models.peft_adapters import from_peft

    config, times = settings(seed, steps), json.loads((directory / "times.json").read_text())
    with build(config) as experiment:
        validation = Validation(experiment, Examples.load(experiment.task, config.seed).validation)
        curve = [(0, 0.0, validation.measure(experiment.adapter).summary()["elbo"])]
        for step, seconds in times.items():
            tensors = load_file(directory / f"{step}.safetensors")
            adapter = from_peft(tensors, experiment.adapter, experiment.structure.architecture)
            curve.append((int(step), seconds, validation.measure(adapter).summary()["elbo"]))
    (directory / "curve.json").write_text(json.dumps(curve))


def in_process(function: Any, *arguments: Any) -> None:
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed")


def seconds_until(curve: list[tuple[int, float, float]], target: float) -> float:
    """When the curve first reaches the target, between two measurements by interpolation."""
    for (_, before, low), (_, after, high) in itertools.pairwise(curve):
        if high >= target:
            return after if low >= target else before + (after - before) * (target - low) / (high - low)
    return float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs: dict[str, list[Any]] = {"ours": [], "at_best": []}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as place:
            runs["ours"].append(train_ours(seed, args.steps, Path(place) / "ours"))
            in_process(train_theirs, seed, args.steps, Path(place))
            in_process(measure_theirs, seed, args.steps, Path(place))
            runs["at_best"].append({"curve": json.loads((Path(place) / "curve.json").read_text())})
    curves = {name: [run["curve"] for run in of_system] for name, of_system in runs.items()}
    everyone = [curve for of_system in curves.values() for curve in of_system]
    first, last = (float(np.mean([curve[place][2] for curve in everyone])) for place in (0, -1))
    target = first + SHARE * (last - first)
    seconds = {name: [seconds_until(curve, target) for curve in of_system] for name, of_system in curves.items()}
    result = {
        "steps": args.steps,
        "elbo_before": first,
        "elbo_after": {name: [curve[-1][2] for curve in of_system] for name, of_system in curves.items()},
        "target": target,
        "seconds": seconds,
        "times_faster": float(np.mean(seconds["at_best"]) / np.mean(seconds["ours"])),
        "runs": runs,
        **describe(),
    }
    table = Table("system", "seconds to 90% of the gain", "elbo at the end")
    for name, values in seconds.items():
        ends = ", ".join(f"{value:.2f}" for value in result["elbo_after"][name])
        table.add_row(name, ", ".join(f"{value:.1f}" for value in values), ends)
    Console().print(table)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
