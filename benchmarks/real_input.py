"""Twenty steps on real prompts with a model of real size: loss on a fixed batch, time, memory.

    python benchmarks/real_input.py --prompts FILE --tokenizer DIR [--steps 20] [--out FILE.json]
    python benchmarks/real_input.py --prompts FILE --config configs/next_sentence_smollm2.py [--out FILE.json]

FILE holds a prompt a line. With a configuration, its model and settings are used; without one a GPT-2 with random
weights, whose tokenizer (vocab.json and merges.txt, or tokenizer.json) is in DIR.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from config_files import read_config
from machine import describe
from ml_collections import ConfigDict
from rich.progress import track

from gfn_jax import objectives
from gfn_jax.config.base import base
from gfn_jax.config.reading import parse_config
from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import build
from gfn_jax.policy.scorer import score


def random_model(args: argparse.Namespace) -> ConfigDict:
    """A GPT-2 with random weights, all of whose steps have the end temperature."""
    raw = base()
    raw.model.tokenizer = args.tokenizer
    raw.model.name_or_path, raw.model.random_init = args.model, True
    raw.model.lora.rank = 64
    raw.reward.temperature_horizon = 0
    raw.train.steps = raw.train.decay_steps = args.steps
    raw.train.prompts_per_step = raw.train.microbatch_prompts = args.batch
    raw.train.warmup_steps, raw.train.learning_rate = 3, 1e-3
    return raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--tokenizer")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", default="gpt2", help="an architecture's name")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4, help="prompts in a step, with 8 samples each")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    if (args.config is None) == (args.tokenizer is None):
        parser.error("either --config or --tokenizer is needed")
    raw = read_config(args.config) if args.config else random_model(args)
    raw.data.path, raw.replay.fraction = args.prompts, 0.0
    config = parse_config(raw.to_dict())
    args.batch = config.train.prompts_per_step

    experiment = build(config)
    examples = Examples.load(experiment.task, config.seed)
    everything = [*examples.train, *examples.validation]
    experiment.check_prompts(everything)
    experiment.request_check(everything)()
    functions, frozen, reward = experiment.functions, experiment.frozen, experiment.reward
    state = functions.init(experiment.adapter)

    fixed = examples.validation[: args.batch]
    fixed_prompts = experiment.encode(fixed)
    fixed_trajectories = functions.sample(state.adapter, frozen, fixed_prompts, 0)
    fixed_components = reward.components(frozen, fixed, fixed_prompts, fixed_trajectories)

    @jax.jit
    def fixed_loss(adapter, frozen, prompts, trajectories, components):
        models = experiment.structure.policy_and_frozen(adapter, frozen)
        scores = score(*models, experiment.rules, prompts, trajectories)
        log_r = experiment.final_log_r(components)
        g = objectives.log_ratio(scores, log_r)
        per_prompt = config.sampling.samples_per_prompt
        return objectives.subtb(
            g,
            log_r,
            scores.is_terminable_NxT,
            jnp.zeros(args.batch, g.dtype),
            samples_per_prompt=per_prompt,
            subtb_lambda=config.objective.subtb_lambda,
        ).mean()

    def loss() -> float:
        return float(fixed_loss(state.adapter, frozen, fixed_prompts, fixed_trajectories, fixed_components))

    losses, seconds = [loss()], []
    for step in track(range(args.steps), "steps"):
        started = time.perf_counter()
        batch = examples.of_step(step, args.batch)
        prompts = experiment.encode(batch)
        trajectories = functions.sample(state.adapter, frozen, prompts, step)
        components = reward.components(frozen, batch, prompts, trajectories)
        state, metrics = functions.update(state, frozen, prompts, trajectories, components, None)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    losses.append(loss())

    result = {
        "model": config.model.name_or_path,
        "prompts_per_step": args.batch,
        "steps": args.steps,
        "fixed_batch_loss_before": losses[0],
        "fixed_batch_loss_after": losses[1],
        "fall_percent": 100 * (1 - losses[1] / losses[0]),
        "seconds_per_step_median": float(np.median(seconds)),
        "seconds_first_step_with_compilation": seconds[0],
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **describe(),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
