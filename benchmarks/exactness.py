"""Does every objective reach the exact target? A real tiny policy on problems whose target can be listed.

    python benchmarks/exactness.py [--full] [--out docs/results/exactness.json] [--plot docs/exactness.png]

Trains a small GPT-2 with LoRA through the project's own sampler, scorer and train step, and prints
for each objective and problem the total variation from R / Z, KL(policy || target), the log-ratio
variance, the elbo's distance from the exact log Z, and the steps until the total variation fell
below 0.05. Without --full: three problems, one seed, minutes. With it: all problems, off-policy
too (behaviour temperature 2, half of every batch from replay), three seeds.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from enumerable import TableReward, TinyWorld, target_distribution, total_variation
from machine import describe
from rich.console import Console
from rich.table import Table

from configs.common import base
from gfn_jax.config import Config, parse_config
from gfn_jax.objectives import OBJECTIVES
from gfn_jax.runtime.mesh import make_mesh
from gfn_jax.runtime.train_step import StepFunctions
from gfn_jax.types import Prompts, Trajectories

WORDS, MAX_LEN, SAMPLES = 4, 3, 128
CLOSE = 0.05
REPLAY_ROOM = 512
STEPS_AT_ONCE = 20


@dataclasses.dataclass(frozen=True)
class Problem:
    """A target: log R [prompts, strings] from a generator, which strings may be sampled, and how it is rewarded."""

    name: str
    log_r: Callable[[np.random.Generator, TinyWorld], np.ndarray]
    min_len: int = 0
    granularity: str = "prefix"
    prompts: int = 1
    steps: int = 1200


def _normal(std: float) -> Callable[[np.random.Generator, TinyWorld], np.ndarray]:
    return lambda rng, world: rng.normal(0, std, (len(world.prompts.length_B), len(world.strings())))


def _near_ties(rng: np.random.Generator, world: TinyWorld) -> np.ndarray:
    """A third of the strings all but equal, the others 3 nats below."""
    strings = len(world.strings())
    return np.where(rng.random((1, strings)) < 1 / 3, 0.0, -3.0) + rng.normal(0, 0.01, (1, strings))


def _far_modes(rng: np.random.Generator, world: TinyWorld) -> np.ndarray:
    """Three strings that share no first word hold most of the mass; what leads to them is worth little."""
    log_r = np.full((1, len(world.strings())), -4.0)
    longest = [row for row, string in enumerate(world.strings()) if len(string) == world.max_len]
    for word in range(3):
        first = [row for row in longest if world.strings()[row][0] == word]
        log_r[0, rng.choice(first)] = 1.0
    return log_r


QUICK = (
    Problem("spread", _normal(1.0)),
    Problem("modes far apart", _far_modes),
    Problem("minimum length 2", _normal(1.0), min_len=2),
)
FULL = (
    *QUICK,
    Problem("peaked", _normal(2.0)),
    Problem("flat", _normal(0.2)),
    Problem("near-ties", _near_ties),
    Problem("near-ties, minimum length 2", _near_ties, min_len=2),
    Problem("terminal reward", _normal(1.0), granularity="terminal"),
    Problem("16 prompts", _normal(1.0), prompts=16, steps=3000),
)


def make_world(problem: Problem) -> TinyWorld:
    rng = np.random.default_rng(0)
    prompts = Prompts(
        jnp.asarray(rng.integers(0, WORDS, (problem.prompts, 5)), jnp.int32), jnp.full(problem.prompts, 5)
    )
    return TinyWorld(
        words=WORDS,
        min_len=problem.min_len,
        max_len=MAX_LEN,
        width=64,
        heads=4,
        rank=16,
        embedding_std=0.5,
        prompts=prompts,
    )


def make_config(problem: Problem, objective: str, seed: int, off_policy: bool, learning_rate: float) -> Config:
    raw = base()
    raw.seed = seed
    raw.data.path = raw.model.name_or_path = "-"
    raw.objective.name = objective
    raw.sampling.min_len, raw.sampling.max_len = problem.min_len, MAX_LEN
    raw.sampling.samples_per_prompt = SAMPLES
    if off_policy:
        raw.sampling.temperature_low = raw.sampling.temperature_high = 2.0
        raw.sampling.temperature_prob = 1.0
    raw.reward.temperature_start = raw.reward.temperature_end = 1.0
    raw.train.steps = raw.train.decay_steps = problem.steps
    raw.train.prompts_per_step = raw.train.microbatch_prompts = raw.eval.prompts_per_batch = problem.prompts
    raw.train.learning_rate, raw.train.final_learning_rate = learning_rate, 0.01
    return parse_config(raw.to_dict())


def empty_replay(prompts: int) -> Trajectories:
    """Room for the last trajectories of every prompt."""
    empty = Trajectories.given(
        jnp.zeros((prompts * REPLAY_ROOM, MAX_LEN), jnp.int32), jnp.zeros(prompts * REPLAY_ROOM, jnp.int32)
    )
    return jax.tree.map(lambda x: x.reshape(prompts, REPLAY_ROOM, *x.shape[1:]), empty)


def mix(kept: Trajectories, fresh: Trajectories, step: jax.Array, seed: int) -> tuple[Trajectories, Trajectories]:
    """Half of each prompt's fresh trajectories and as many kept ones; and what is kept from now on."""
    prompts = kept.length_N.shape[0]
    filled = jnp.minimum((step + 1) * SAMPLES, REPLAY_ROOM)
    key = jax.random.fold_in(jax.random.key(seed), step)
    chosen = REPLAY_ROOM - 1 - jax.random.randint(key, (SAMPLES // 2,), 0, filled)

    def both(old, new):
        new = new.reshape(prompts, SAMPLES, *new.shape[1:])
        old = jnp.concatenate([old[:, SAMPLES:], new], 1)
        mixed = jnp.concatenate([new[:, : SAMPLES // 2], old[:, chosen]], 1)
        return mixed.reshape(-1, *mixed.shape[2:]), old

    pairs = [both(old, new) for old, new in zip(jax.tree.leaves(kept), jax.tree.leaves(fresh), strict=True)]
    structure = jax.tree.structure(kept)
    return tuple(jax.tree.unflatten(structure, leaves) for leaves in zip(*pairs, strict=True))


def run(problem: Problem, world: TinyWorld, config: Config, off_policy: bool) -> dict:
    """Trains one policy on one problem and measures it against the exact target."""
    started = time.perf_counter()
    table = problem.log_r(np.random.default_rng([7, config.seed]), world)
    reward = TableReward(world, table, problem.granularity)
    target, log_z = target_distribution(world, table)
    functions = StepFunctions(config, world.structure, reward, world.rules, make_mesh(1, 1))

    def one_step(carry, step):
        state, kept = carry
        trajectories = functions.sample(state.adapter, world.frozen, world.prompts, step)
        if off_policy:
            trajectories, kept = mix(kept, trajectories, step, config.seed)
        components = reward.components(world.frozen, (), world.prompts, trajectories)
        state, _ = functions.update(state, world.frozen, world.prompts, trajectories, components)
        return (state, kept), None

    @jax.jit
    def some_steps(carry, first):
        return jax.lax.scan(one_step, carry, first + jnp.arange(STEPS_AT_ONCE))[0]

    state = functions.init(jax.tree.map(jnp.copy, world.fresh))
    carry, steps_to_close, curve = (state, empty_replay(problem.prompts)), None, []
    for first in range(0, config.train.steps, STEPS_AT_ONCE):
        carry = some_steps(carry, first)
        distance = total_variation(np.exp(world.exact_log_probs(carry[0].adapter)), target).mean()
        curve.append((first + STEPS_AT_ONCE, float(distance)))
        if steps_to_close is None and distance < CLOSE:
            steps_to_close = first + STEPS_AT_ONCE
    state = carry[0]
    log_p = world.exact_log_probs(state.adapter)
    p = np.exp(log_p)
    g = np.where(p > 0, table - np.where(p > 0, log_p, 0), 0)
    elbo = (p * g).sum(1)
    return {
        "problem": problem.name,
        "objective": config.objective.name,
        "off_policy": off_policy,
        "seed": config.seed,
        "total_variation": float(total_variation(p, target).mean()),
        "kl": float((log_z - elbo).mean()),
        "log_ratio_var": float(((p * g**2).sum(1) - elbo**2).mean()),
        "elbo_minus_log_z": float((elbo - log_z).mean()),
        "steps_to_0.05": steps_to_close,
        "seconds": round(time.perf_counter() - started, 1),
        "curve": curve,
    }


def applies(problem: Problem, objective: str) -> bool:
    return problem.granularity == "prefix" or objective in ("vargrad", "tb")


def largest_gap(world: TinyWorld) -> float:
    """The largest logit difference that the frozen head can express at the layer norm's output scale."""
    wte = np.asarray(world.frozen["wte"])[:WORDS]
    scale = np.sqrt(wte.shape[1]) * np.abs(np.asarray(world.frozen["ln_f"]["scale"])).mean()
    return float(max(np.linalg.norm(a - b) for a in wte for b in wte) * scale)


def print_table(console: Console, rows: Sequence[dict]) -> None:
    table = Table(title=f"{SAMPLES} samples a step; total variation below 0.01 is the goal")
    for heading in ("problem", "objective", "", "seeds", "TV", "KL", "log-ratio var", "elbo - log Z", "steps to 0.05"):
        table.add_column(heading, justify="left" if heading in ("problem", "objective", "") else "right")
    keys = list(dict.fromkeys((row["problem"], row["off_policy"], row["objective"]) for row in rows))
    for problem, off_policy, objective in keys:
        mine = [
            row
            for row in rows
            if (row["problem"], row["off_policy"], row["objective"]) == (problem, off_policy, objective)
        ]
        worst = {key: max(row[key] for row in mine) for key in ("total_variation", "kl", "log_ratio_var")}
        steps = [row["steps_to_0.05"] for row in mine]
        table.add_row(
            problem,
            objective,
            "off-policy" if off_policy else "on-policy",
            str(len(mine)),
            f"{worst['total_variation']:.4f}",
            f"{worst['kl']:.5f}",
            f"{worst['log_ratio_var']:.5f}",
            f"{min(row['elbo_minus_log_z'] for row in mine):+.5f}",
            "never" if None in steps else f"{np.median(steps):.0f}",
        )
    console.print(table)


def plot(rows: Sequence[dict], file: Path) -> None:
    import matplotlib.pyplot as plt

    problems = list(dict.fromkeys(row["problem"] for row in rows))
    figure, axes = plt.subplots(1, len(problems), figsize=(3.2 * len(problems), 3), sharey=True, layout="constrained")
    for panel, problem in zip(np.atleast_1d(axes), problems, strict=True):
        for number, objective in enumerate(OBJECTIVES):
            for row in rows:
                if row["problem"] == problem and row["objective"] == objective and not row["off_policy"]:
                    label = objective if row["seed"] == 0 else None
                    panel.semilogy(*zip(*row["curve"], strict=True), color=f"C{number}", label=label, lw=1)
        panel.axhline(0.01, color="grey", ls=":", lw=0.8)
        panel.set(title=problem, xlabel="optimiser step")
    np.atleast_1d(axes)[0].set_ylabel("total variation from R / Z")
    np.atleast_1d(axes)[0].legend(fontsize=7)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all problems, off-policy too, three seeds")
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--problems", nargs="+", default=[], help="names; all that are asked for otherwise")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=130)
    seeds, modes = ((0, 1, 2), (False, True)) if args.full else ((0,), (False,))
    problems = [
        problem for problem in (FULL if args.full else QUICK) if not args.problems or problem.name in args.problems
    ]

    rows = []
    for problem in problems:
        world = make_world(problem)
        for objective in args.objectives:
            if not applies(problem, objective):
                continue
            for off_policy in modes:
                for seed in seeds:
                    config = make_config(problem, objective, seed, off_policy, args.learning_rate)
                    rows.append(run(problem, world, config, off_policy))
                    console.print(
                        f"{problem.name}, {objective}, seed {seed}{', off-policy' if off_policy else ''}: "
                        f"TV {rows[-1]['total_variation']:.4f} in {rows[-1]['seconds']} s",
                        soft_wrap=True,
                    )
                    if args.out:
                        gap = largest_gap(world)
                        result = {"samples": SAMPLES, "largest_logit_gap": gap, "rows": rows, **describe()}
                        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table(console, rows)
    console.print(f"largest logit gap that the tiny model can express: {largest_gap(make_world(QUICK[0])):.1f} nats")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
