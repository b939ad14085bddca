"""Peak host memory and time of loading a checkpoint of several files, which is written here with random weights.

    python benchmarks/load_model.py [--model gpt2-xl] [--dtype bfloat16] [--quantize int8] [--out FILE.json]

On a CPU the host's memory also holds what would be an accelerator's. Loading is a process of its own, whose peak is
the kernel's high-water mark of resident memory, pages of the mapped files included.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from machine import describe
from safetensors.numpy import save_file

FILE_BYTES = 2 * 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2-xl", help="an architecture's name")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantize", default="")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # the process that loads
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.load, args.dtype, args.quantize)))
        return
    with tempfile.TemporaryDirectory() as place:
        size, files = write(Path(place), args.model)
        command = [sys.executable, *sys.argv, "--load", place]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    loaded = json.loads(done.stdout)
    result = {
        "model": args.model,
        "dtype": args.dtype,
        "quantize": args.quantize,
        "checkpoint_gb": size / 1e9,
        "files": files,
        **loaded,
        "peak_of_checkpoint": loaded["peak_gb"] / (size / 1e9),
        **describe(),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def write(directory: Path, model: str) -> tuple[int, int]:
    """A checkpoint in float32, as large ones are published; the bytes of its weights, and the number of files."""
    from gfn_jax.models.hf_architecture import PUBLISHED, named_architecture
    from gfn_jax.models.hf_weights import tensor_shapes

    architecture = named_architecture(model)
    rng = np.random.default_rng(0)
    weight_map: dict[str, str] = {}
    part: dict[str, np.ndarray] = {}
    files = total = 0

    def flush() -> None:
        nonlocal files, part
        files += 1
        name = f"model-{files:05}.safetensors"
        save_file(part, directory / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, name))
        part = {}

    for name, shape in tensor_shapes(architecture).items():
        full = f"{architecture.prefix}{name}"
        part[full] = rng.standard_normal(shape, np.float32)
        total += part[full].nbytes
        if sum(tensor.nbytes for tensor in part.values()) > FILE_BYTES:
            flush()
    flush()
    (directory / "config.json").write_text(json.dumps(dict(PUBLISHED[model])))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return total, files


def load(directory: Path, dtype: str, quantize: str) -> dict[str, float]:
    import jax

    from gfn_jax.config.base import base
    from gfn_jax.config.reading import parse_config
    from gfn_jax.models.layout import WHEREVER
    from gfn_jax.models.loading import find_model, load_model
    from gfn_jax.models.mesh import make_mesh, weight_shardings

    raw = base()
    raw.data.path = "unused"
    raw.model.name_or_path, raw.model.dtype, raw.model.quantize = str(directory), dtype, quantize
    config = parse_config(raw.to_dict())
    mesh = make_mesh(1, 1)
    found = find_model(config.model, WHEREVER)
    before = peak_gb()
    started = time.perf_counter()
    loaded = load_model(found, mesh, weight_shardings(mesh, found.structure, fsdp=False), 0)
    jax.block_until_ready(loaded.frozen)
    seconds = time.perf_counter() - started
    weights = sum(leaf.size * bits(leaf.dtype) / 8 for leaf in jax.tree.leaves(loaded.frozen))
    return {
        "peak_before_loading_gb": before,
        "peak_gb": peak_gb(),
        "weights_gb": weights / 1e9,
        "seconds": seconds,
    }


def bits(dtype: Any) -> int:
    """Of a number on the device, where two of four bits share a byte."""
    return (jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo)(dtype).bits


def peak_gb() -> float:
    """The most memory that this program has had resident (getrusage would count the one that started it)."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / 1e9


if __name__ == "__main__":
    main()
