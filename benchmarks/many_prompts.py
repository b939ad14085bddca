"""What a text file of many prompts costs before the first step: seconds, and memory.

    python benchmarks/many_prompts.py [--prompts 8000000] [--out docs/results/many_prompts.json]

The prompts are the miniature's, each followed by two words of its own; so are tokenizer and model. What is left out of
the start does not depend on the number of prompts.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config_files import read_config
from machine import describe
from rich.console import Console
from rich.table import Table

from gfn_jax.config.reading import parse_config
from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import build

ROOT = Path(__file__).parent.parent


def write_prompts(count: int, file: Path) -> None:
    """Different ones."""
    lines = (ROOT / "data" / "miniworld" / "prompts.txt").read_text(encoding="utf-8").splitlines()
    base = list(dict.fromkeys(lines))
    words = sorted({word.strip(".") for line in base for word in line.split()})
    with file.open("w", encoding="utf-8") as out:
        for number in range(count):
            turn, place = divmod(number, len(base))
            out.write(f"{base[place]} {words[turn // len(words)]} {words[turn % len(words)]}.\n")


def peak_gigabytes() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8_000_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    raw = read_config(ROOT / "configs" / "next_sentence_mini.py")
    raw.data.prompt_buckets = (16, 32, 64)
    raw.model.name_or_path = str(ROOT / "data" / "miniworld" / "gpt2")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "prompts.txt"
        write_prompts(args.prompts, file)
        raw.data.path = str(file)
        config = parse_config(raw.to_dict())
        size = file.stat().st_size
        steps: dict[str, dict[str, float]] = {}

        def measured(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
            started = time.perf_counter()
            result = work(*arguments)
            steps[name] = {"seconds": round(time.perf_counter() - started, 4), "peak_gb": round(peak_gigabytes(), 2)}
            return result

        with build(config) as experiment:
            before = peak_gigabytes()
            examples = measured("read and split", Examples.load, experiment.task, config.seed)
            measured("hash", examples.sha256)
            everything = [*examples.train, *examples.validation]
            measured("lengths", experiment.check_prompts, everything)
            measured("buckets", experiment.buckets, examples.train)
            for number in range(3):
                measured(f"examples of step {number}", examples.of_step, number, 32)
    table = Table(title=f"{args.prompts:,} prompts, {size / 1e9:.2f} GB of text; {before:.2f} GB before")
    for heading in ("", "seconds", "peak GB"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, found in steps.items():
        table.add_row(name, f"{found['seconds']:.4g}", f"{found['peak_gb']:.2f}")
    Console().print(table)
    if args.out:
        result = {"prompts": args.prompts, "file_gb": round(size / 1e9, 3), "before_gb": round(before, 2)}
        args.out.write_text(json.dumps({**result, "steps": steps, **describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
