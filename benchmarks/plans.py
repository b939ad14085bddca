"""What runs of real size need of GPUs and TPUs, by `gfn_jax.plan`: compiled for them, and not run.

    python benchmarks/plans.py --out docs/results/plans.json [--minutes 60] [--only NAME]
    python benchmarks/plans.py --table docs/results/plans.json          the table of docs/scaling.md

Goes on where it was; no plan begins after the minutes are over. Needs the extras plan-gpu and plan-tpu.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # a plugin without its GPU complains

from machine import describe

MODELS = {  # name -> configuration and overrides
    "SmolLM2-135M": ["--config=configs/next_sentence_smollm2.py", "--config.model.dtype=bfloat16"],
    "gpt2-xl": ["--config=configs/next_sentence_gpt2_xl.py"],
    "Qwen3-8B": ["--config=configs/next_sentence_qwen3_8b.py"],
}
TARGETS = ("h100", "v5e", "v6e", "h100:8", "v5e:2x4", "v5p:2x2x1", "v5e:4x4")
TOO_LARGE = {("Qwen3-8B", "v5e:2x4"), ("Qwen3-8B", "v5e:4x4")}  # as on one v5e: mesh.data splits no weights
LENGTH = 64  # tokens of a prompt


def make(model: str, target: str) -> dict[str, Any]:
    """A plan's figures, or why there are none."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "plan.json"
        prompts = ["--config.train.prompts_per_step=32", "--config.eval.prompts_per_batch=16"]
        command = [sys.executable, "-m", "gfn_jax.plan", *MODELS[model], *prompts, f"--target={target}"]
        command += [f"--lengths={LENGTH}", "--config.data.prompt_buckets=(64,)", f"--json={file}"]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = json.loads(file.read_text()) if file.exists() else {"error": done.stderr.strip()[-300:]}
        said = done.stdout.strip().splitlines()
        return {"model": model, "asked": target, "seconds": time.monotonic() - started, "said": said[-3:], **found}


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown, a row for each plan."""
    headings = [
        "model",
        "machine",
        "at once",
        "GB",
        "stays",
        "beside: sample, update",
        "a token",
        "a step",
        "compiled in, s",
    ]
    lines = [headings, ["---"] * len(headings)]
    for row in rows:
        if "error" in row:
            lines.append([row["model"], row["asked"], "", row["error"].splitlines()[-1][:90], *[""] * 5])
            continue
        programs = {each["name"]: each for each in row["programs"]}
        sampling, update = programs["sample"], programs["update"]
        step = [programs[name] for name in ("sample", "likelihood", "update")]
        is_gpu = row["target"]["kind"] == "gpu"
        if is_gpu:
            turn, whole = f"{sampling['kernels_of_a_turn']:,} kernels", f"{sum(each['kernels'] for each in step):,}"
        else:
            turn, whole = (
                f"{count / 1e6:,.1f}" for count in (sampling["cycles_of_a_turn"], sum(e["cycles"] for e in step))
            )
            turn += " M cycles"
        refused = [each["name"] for each in programs.values() if each["refused"]]
        held = f"{row['peak'] / 1e9:.1f} of {row['target']['memory_bytes'] / 1e9:.0f}"
        lines.append(
            [
                row["model"],
                row["asked"],
                f"{row['microbatch']} of {row['prompts_of_a_device']}",
                f"too large: {', '.join(refused)}" if refused else held,
                f"{row['resident'] / 1e9:.1f}",
                f"{sampling['temporaries'] / 1e9:.1f}, {update['temporaries'] / 1e9:.1f}",
                turn,
                whole,
                f"{sum(each['seconds'] for each in programs.values()):.0f}",
            ]
        )
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--only", default="", help="plans whose model and target end in this")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())["plans"]))
        return
    if args.out is None:
        parser.error("--out or --table is wanted")
    rows = json.loads(args.out.read_text())["plans"] if args.out.exists() else []
    end = time.monotonic() + 60 * args.minutes
    wanted = [(model, target) for target in TARGETS for model in MODELS if f"{model} {target}".endswith(args.only)]
    made = {(row["model"], row["asked"]) for row in rows}
    for model, target in wanted:
        if (model, target) in made | TOO_LARGE or time.monotonic() > end:
            continue
        rows.append(make(model, target) | {"commit": describe()["commit"]})
        args.out.write_text(json.dumps({"prompt_tokens": LENGTH, "plans": rows, **describe()}, indent=1) + "\n")
        print(table(rows[-1:]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
