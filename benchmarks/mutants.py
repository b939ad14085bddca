"""Would the tests notice? Plants faults into a copy of the package, one at a time, and runs tests that must then fail.

    python benchmarks/mutants.py [--only NAME] [--minutes M] [--out docs/results/mutants.json]

A fault is a line of the package that is another in the copy. Noticed it is by tests that fail with it, and pass
without it. Goes on where FILE left off while the package and the tests are the same.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"

from machine import describe
from rich.console import Console

from gfn_jax.runtime.content import files_sha256

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("gfn_jax", "tests")
SHARED = ("benchmarks", "configs", "data", "docs", "examples", "launch", "pyproject.toml", ".compiled_cache")
LIMIT_S = 600.0


class Fault(NamedTuple):
    """`was` stands once in the file `of`, and becomes `is_now`; `tests` are what pytest is given."""

    name: str
    of: str
    was: str
    is_now: str
    tests: str


FAULTS = (
    Fault(
        "banned items may be drawn",
        "policy/masks.py",
        "is_word[: len(banned_items)] = ~banned_items",
        "is_word[: len(banned_items)] = True",
        "tests/policy/test_policy.py",
    ),
    Fault(
        "the stop is allowed one token early",
        "policy/masks.py",
        "(step >= rules.min_len)",
        "(step >= rules.min_len - 1)",
        "tests/policy/test_policy.py",
    ),
    Fault(
        "the stop is not forced at the maximum length",
        "policy/masks.py",
        "step >= rules.max_len, is_terminator",
        "step > rules.max_len, is_terminator",
        "tests/policy/test_policy.py",
    ),
    Fault(
        "an item at the support's edge is impossible to the scorer",
        "policy/masks.py",
        "(candidates >= edge - tolerance)",
        "(candidates >= edge)",
        "tests/policy/test_policy.py",
    ),
    Fault(
        "a nucleus that is too small",
        "policy/behaviour.py",
        "jnp.where(is_in_NxV, p, 0).sum(-1) >= top_p",
        "jnp.where(is_in_NxV, p, 0).sum(-1) >= 0.9 * top_p",
        "tests/policy/test_policy.py",
    ),
    Fault(
        "samples that go on when others have ended, with others' random numbers",
        "policy/sampler.py",
        "jnp.take_along_axis(uniform, sample_BxZ[None], axis=2)",
        "uniform[:, :, : sample_BxZ.shape[1]]",
        "tests/policy/test_policy.py",
    ),
    Fault(
        "positions that count padding",
        "models/decoding.py",
        "position_B = prompts.length_B + step",
        "position_B = 0 * prompts.length_B + prompts.tokens_BxP.shape[1] + step",
        "tests/models/test_language_model.py",
    ),
    Fault(
        "a cache that keeps the first token alone",
        "models/caches.py",
        "(zero, zero, zero, step, zero)",
        "(zero, zero, zero, zero, zero)",
        "tests/models/test_language_model.py",
    ),
    Fault(
        "samples that see each other",
        "models/caches.py",
        "sample_R[:, None] == jnp.arange(self._samples)[None]",
        "jnp.ones((len(sample_R), self._samples), bool)",
        "tests/models/test_caches.py",
    ),
    Fault(
        "the rate of the step before",
        "experiment/train_step.py",
        "at_step(state.optimizer, state.step)",
        "at_step(state.optimizer, state.step - 1)",
        "tests/experiment/test_train_step.py",
    ),
    Fault(
        "tokens that see the next one",
        "models/attention.py",
        "return behind >= 0 if",
        "return behind >= -1 if",
        "tests/models/test_language_model.py",
    ),
    Fault(
        "padding of a prompt that is read",
        "types.py",
        "jnp.arange(self.tokens_BxP.shape[1])[None, :] < self.length_B[:, None]",
        "jnp.arange(self.tokens_BxP.shape[1])[None, :] <= self.length_B[:, None]",
        "tests/models/test_language_model.py",
    ),
    Fault(
        "a packed row without room for its last token",
        "models/packing.py",
        "(needed > room).astype",
        "(needed > room + 1).astype",
        "tests/models/test_packing.py",
    ),
    Fault(
        "gradients of packed tokens that go to other tokens",
        "models/packing.py",
        "(back(cotangent), None, None)",
        "(back._replace(source=back.source[:, ::-1])(cotangent), None, None)",
        "tests/models/test_packing.py",
    ),
    Fault(
        "a fresh adapter that changes the policy",
        "models/lora.py",
        "nnx.LoRAParam(jnp.zeros((lora.rank, *outputs), adapter_dtype))",
        "nnx.LoRAParam(jnp.full((lora.rank, *outputs), 0.01, adapter_dtype))",
        "tests/models/test_language_model.py",
    ),
    Fault(
        "a forward pass without the adapter's scale",
        "models/lora.py",
        "jnp.tensordot(x, kernel, self.contracted) + self.scale * _low_rank(x, a, b)",
        "jnp.tensordot(x, kernel, self.contracted) + _low_rank(x, a, b)",
        "tests/models/test_peft_adapters.py",
    ),
    Fault(
        "g without the stop's own probability",
        "objectives.py",
        "log_r_NxT - log_pterm_NxT - log_pf_sum_NxT",
        "log_r_NxT - log_pf_sum_NxT",
        "tests/test_objectives.py",
    ),
    Fault(
        "tokens before the first terminable state that are never trained",
        "objectives.py",
        "_weighted_mean(pair_squares_N + start_squares_N, pair_weights_N + start_weights_N, samples_per_prompt)",
        "_weighted_mean(pair_squares_N, pair_weights_N, samples_per_prompt)",
        "tests/test_objectives.py",
    ),
    Fault(
        "microbatches of which the last alone counts",
        "experiment/train_step.py",
        "return jax.tree.map(jnp.add, gradients, more), losses",
        "return more, losses",
        "tests/experiment/test_train_step.py",
    ),
    Fault(
        "a bad row that takes part",
        "experiment/train_step.py",
        "is_terminable_NxT & ~(is_bad_N | is_absent_N)[:, None]",
        "is_terminable_NxT & ~is_absent_N[:, None]",
        "tests/training/test_training.py",
    ),
    Fault(
        "replay that takes one example's texts for another's",
        "experiment/experiment.py",
        "json.dumps(said, sort_keys=True)",
        "json.dumps(self._of_all_rewards, sort_keys=True)",
        "tests/test_identity.py",
    ),
    Fault(
        "a resumed run that draws the waiting batch again",
        "training/loop.py",
        "waiting = begin.waiting if is_restored else ()",
        "waiting = ()",
        "tests/training/test_training_questions.py",
    ),
    Fault(
        "a mesh that is not what prompts divide into",
        "models/mesh.py",
        "if not any(size % ways for size in batches)",
        "if ways > 0",
        "tests/planning/test_plan.py",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose name holds this")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    chosen = [fault for fault in FAULTS if args.only in fault.name]
    files = sorted(file for room in ("gfn_jax", "tests") for file in (ROOT / room).rglob("*.py"))
    content = files_sha256(files)
    before = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    found: dict[str, list[str]] = before.get("found", {}) if before.get("content") == content else {}
    console, end = Console(), time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name)
        for name in SHARED:
            (copy / name).symlink_to(ROOT / name)
        for fault in chosen:
            if fault.name in found or time.monotonic() > end:
                continue
            found[fault.name] = plant(fault, copy)
            console.print(f"{fault.name}: {len(found[fault.name])} tests red", highlight=False)
            if args.out:
                result = {"content": content, "wanted": len(FAULTS), "found": found, **describe()}
                args.out.write_text(json.dumps(result, indent=1) + "\n")
        unnoticed = [fault.name for fault in chosen if not found.get(fault.name)]
    noticed = len(chosen) - len(unnoticed)
    console.print(f"{noticed} of {len(chosen)} faults are noticed", *(f"  not: {name}" for name in unnoticed), sep="\n")
    sys.exit(bool(unnoticed))


def plant(fault: Fault, copy: Path) -> list[str]:
    """The tests that fail with the fault and not without it."""
    file = copy / "gfn_jax" / fault.of
    whole = file.read_text()
    if whole.count(fault.was) != 1:
        raise SystemExit(f"{fault.name}: {fault.of} has {whole.count(fault.was)} times: {fault.was}")
    file.write_text(whole.replace(fault.was, fault.is_now))
    try:
        red = failing(fault.tests, copy, [])
    finally:
        file.write_text(whole)
    return sorted(red - failing("", copy, sorted(red))) if red else []


def failing(tests: str, copy: Path, names: list[str]) -> set[str]:
    """Those of the tests that fail in the copy; of a file the first three, which say enough."""
    given = names or [tests, "--maxfail=3"]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-rfE", "--no-header", *given]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode not in (0, 1):  # neither all green nor some red
        raise SystemExit(f"pytest ended with status {done.returncode}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return {line.split(" ", 1)[1].partition(" - ")[0] for line in lines}


if __name__ == "__main__":
    main()
