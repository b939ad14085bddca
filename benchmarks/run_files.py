"""Reading what a run writes down."""

import json
from pathlib import Path
from typing import Any


def json_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics without those that differ from run to run."""
    times = ("train/seconds", "train/trajectories_per_s", "time/")
    return [{name: value for name, value in row.items() if not name.startswith(times)} for row in rows]
