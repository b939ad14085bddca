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
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from enumerable import TableReward, TinyWorld, target_distribution, total_variation
from exactness_report import plot, print_table, write
from machine import describe
from rich.console import Console

from gfn_jax.config.base import base
from gfn_jax.config.reading import parse_config
from gfn_jax.config.schema import Config
from gfn_jax.experiment.train_step import StepFunctions
from gfn_jax.models.mesh import make_mesh, replicated
from gfn_jax.objectives import OBJECTIVES
from gfn_jax.types import Prompts, Trajectories

WORDS, MAX_LEN = 4, 3
CLOSE = 0.05
REPLAY_ROOM = 512
STEPS_AT_ONCE = 10


@dataclasses.dataclass(frozen=True)
class Problem:
    """A target: log R [prompts, strings] from a generator, which strings may be sampled, and how it is rewarded."""

    name: str
    log_r: Callable[[np.random.Generator, TinyWorld], np.ndarray]
    min_len: int = 0
    granularity: Literal["prefix", "terminal"] = "prefix"
    prompts: int = 1
    samples: int = 128
    steps: int = 600
    learning_rate: float = 1e-3


def _normal(rng: np.random.Generator, world: TinyWorld, std: float) -> np.ndarray:
    return rng.normal(0, std, (len(world.prompts.length_B), len(world.strings())))


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
    Problem("spread", partial(_normal, std=1.0)),
    Problem("modes far apart", _far_modes, steps=1200),
    Problem("minimum length 2", partial(_normal, std=1.0), min_len=2),
)
FULL = (
    *QUICK,
    Problem("peaked", partial(_normal, std=2.0), steps=1200),
    Problem("flat", partial(_normal, std=0.2)),
    Problem("near-ties", _near_ties),
    Problem("terminal reward", partial(_normal, std=1.0), granularity="terminal"),
    Problem("16 prompts", partial(_normal, std=1.0), prompts=16, samples=64, steps=400, learning_rate=4e-3),
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
        embedding_std=0.3,
        logit_scale=0.4,
        prompts=prompts,
    )


def make_config(problem: Problem, objective: str, off_policy: bool) -> Config:
    raw = base()
    raw.data.path = raw.model.name_or_path = "-"
    raw.objective.name = objective
    raw.objective.log_z_learning_rate = 100 * problem.learning_rate
    raw.sampling.min_len, raw.sampling.max_len = problem.min_len, MAX_LEN
    raw.sampling.samples_per_prompt = problem.samples
    if off_policy:
        raw.sampling.temperature_low = raw.sampling.temperature_high = 2.0
        raw.sampling.temperature_prob = 1.0
    raw.reward.temperature_start = raw.reward.temperature_end = 1.0
    raw.train.steps = raw.train.decay_steps = problem.steps
    raw.train.prompts_per_step = raw.train.microbatch_prompts = raw.eval.prompts_per_batch = problem.prompts
    raw.train.learning_rate, raw.train.final_learning_rate = problem.learning_rate, 0.01
    return parse_config(raw.to_dict())


class Trainer:
    """The training of one objective on one problem, compiled once for all seeds.

    A seed decides the target, the fresh adapter and what is drawn.
    """

    def __init__(self, problem: Problem, objective: str, off_policy: bool):
        self.problem, self.off_policy = problem, off_policy
        self.config = make_config(problem, objective, off_policy)
        self._world = make_world(problem)
        self._reward = TableReward(self._world, self._table(0), problem.granularity)
        mesh = make_mesh(1, 1)
        rules, structure = self._world.rules, self._world.structure
        self._functions = StepFunctions(self.config, structure, self._reward, rules, mesh)
        self._some_steps = jax.jit(self._scan, out_shardings=replicated(mesh))
        self._everywhere = replicated(mesh)

    def run(self, seed: int) -> dict:
        """Trains one policy and measures it against the exact target."""
        started = time.perf_counter()
        world, table = self._world, self._table(seed)
        target, log_z = target_distribution(world, table)
        state = self._functions.init(world.fresh_adapter(seed))
        carry = jax.device_put((state, empty_replay(self.problem.prompts)), self._everywhere)
        look_up = jax.device_put(jnp.asarray(table, jnp.float32), self._everywhere)
        curve = []
        for first in range(0, self.problem.steps, STEPS_AT_ONCE):
            carry = self._some_steps(carry, look_up, jnp.int32(seed), jnp.int32(first))
            distance = total_variation(np.exp(world.exact_log_probs(carry[0].adapter)), target).mean()
            curve.append((first + STEPS_AT_ONCE, round(float(distance), 6)))
        log_p = world.exact_log_probs(carry[0].adapter)
        p = np.exp(log_p)
        g = np.where(p > 0, table - np.where(p > 0, log_p, 0), 0)
        elbo = (p * g).sum(1)
        return {
            "problem": self.problem.name,
            "objective": self.config.objective.name,
            "off_policy": self.off_policy,
            "seed": seed,
            "total_variation": float(total_variation(p, target).mean()),
            "kl": float((log_z - elbo).mean()),
            "own_log_ratio_var": float(((p * g**2).sum(1) - elbo**2).mean()),
            "elbo_minus_log_z": float((elbo - log_z).mean()),
            "steps_to_0.05": next((step for step, distance in curve if distance < CLOSE), None),
            "seconds": round(time.perf_counter() - started, 1),
            "curve": curve,
        }

    def _table(self, seed: int) -> np.ndarray:
        return self.problem.log_r(np.random.default_rng([7, seed]), self._world)

    def _scan(self, carry, table, seed, first):
        def one_step(carry, step):
            state, kept = carry
            draw = step + seed * self.problem.steps
            prompts, frozen = self._world.prompts, self._world.frozen
            trajectories = self._functions.sample(state.adapter, frozen, prompts, draw)
            if self.off_policy:
                trajectories, kept = mix(kept, trajectories, step, draw)
            components = self._reward.look_up(table, trajectories)
            state, _ = self._functions.update(state, frozen, prompts, trajectories, components, None)
            return (state, kept), None

        return jax.lax.scan(one_step, carry, first + jnp.arange(STEPS_AT_ONCE))[0]


def empty_replay(prompts: int) -> Trajectories:
    """Room for the last trajectories of every prompt."""
    empty = Trajectories.given(
        jnp.zeros((prompts * REPLAY_ROOM, MAX_LEN), jnp.int32), jnp.zeros(prompts * REPLAY_ROOM, jnp.int32)
    )
    return jax.tree.map(lambda x: x.reshape(prompts, REPLAY_ROOM, *x.shape[1:]), empty)


def mix(kept: Trajectories, fresh: Trajectories, step: jax.Array, draw: jax.Array) -> tuple[Trajectories, Trajectories]:
    """Half of each prompt's fresh trajectories and as many kept ones; and what is kept from now on."""
    prompts = kept.length_N.shape[0]
    samples = fresh.length_N.shape[0] // prompts
    filled = jnp.minimum((step + 1) * samples, REPLAY_ROOM)
    key = jax.random.fold_in(jax.random.key(0), draw)
    chosen = REPLAY_ROOM - 1 - jax.random.randint(key, (samples // 2,), 0, filled)

    def both(old, new):
        new = new.reshape(prompts, samples, *new.shape[1:])
        old = jnp.concatenate([old[:, samples:], new], 1)
        mixed = jnp.concatenate([new[:, : samples // 2], old[:, chosen]], 1)
        return mixed.reshape(-1, *mixed.shape[2:]), old

    pairs = [both(old, new) for old, new in zip(jax.tree.leaves(kept), jax.tree.leaves(fresh), strict=True)]
    structure = jax.tree.structure(kept)
    return tuple(jax.tree.unflatten(structure, leaves) for leaves in zip(*pairs, strict=True))


def applies(problem: Problem, objective: str) -> bool:
    return problem.granularity == "prefix" or objective in ("vargrad", "tb")


def largest_gap(world: TinyWorld) -> float:
    """The largest logit difference that the frozen head can express at the layer norm's output scale."""
    wte = np.asarray(world.frozen["token_embedding"])[:WORDS]
    scale = np.sqrt(wte.shape[1]) * np.abs(np.asarray(world.frozen["final_norm"]["scale"])).mean()
    return float(max(np.linalg.norm(a - b) for a in wte for b in wte) * scale)


def train_all(problem: Problem, objective: str, off_policy: bool, seeds: Sequence[int]) -> list[dict]:
    trainer = Trainer(problem, objective, off_policy)
    return [trainer.run(seed) for seed in seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all problems, off-policy too, three seeds")
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--problems", nargs="+", default=[], help="names; all that are asked for otherwise")
    parser.add_argument("--modes", nargs="+", default=[], choices=["on-policy", "off-policy"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[])
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="of one thread each")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=130)
    seeds = args.seeds or ((0, 1, 2) if args.full else (0,))
    modes = args.modes or (("on-policy", "off-policy") if args.full else ("on-policy",))
    problems = [
        problem
        for problem in (FULL if args.full or args.problems else QUICK)
        if not args.problems or problem.name in args.problems
    ]
    runs = [
        (problem, objective, mode == "off-policy")
        for problem in problems
        for objective in args.objectives
        if applies(problem, objective)
        for mode in modes
    ]
    if not runs:
        sys.exit(f"--problems, --objectives: nothing is both; problems are {', '.join(each.name for each in FULL)}")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
    gap = largest_gap(make_world(QUICK[0]))
    rows = []
    with ProcessPoolExecutor(args.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = [pool.submit(train_all, *run, seeds) for run in runs]
        for done in as_completed(pending):
            for row in done.result():
                rows.append(row)
                console.print(
                    f"{row['problem']}, {row['objective']}, seed {row['seed']}"
                    f"{', off-policy' if row['off_policy'] else ''}: "
                    f"TV {row['total_variation']:.4f} in {row['seconds']} s",
                    soft_wrap=True,
                )
            if args.out:
                write({"largest_logit_gap": gap, "rows": rows, **describe()}, args.out)
    print_table(console, rows)
    console.print(f"largest logit gap that the tiny model can express: {gap:.1f} nats")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
