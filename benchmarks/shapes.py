"""Are the programs of a configuration's model well formed? Traced from shapes alone, without weights or memory.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python benchmarks/shapes.py --config configs/NAME.py \
        [--data 1] [--model 4] [--fsdp]

For models whose sizes are known here by name (`PUBLISHED` in `models/hf_architecture.py`): sampling, likelihood and
update are traced and lowered over the mesh, and the bytes of the weights on one device are printed.
"""

import argparse
import json
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from config_files import read_config

from gfn_jax.config.reading import parse_config
from gfn_jax.models.hf_architecture import named_architecture
from gfn_jax.planning.programs import outline_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=int, default=1)
    parser.add_argument("--model", type=int, default=1)
    parser.add_argument("--fsdp", action="store_true")
    args = parser.parse_args()
    raw = read_config(args.config)
    raw.mesh.data, raw.mesh.model, raw.mesh.fsdp = args.data, args.model, args.fsdp
    config = parse_config(raw.to_dict())
    architecture = named_architecture(config.model.name_or_path)
    started = time.perf_counter()
    drawn = outline_for(config, architecture)
    programs = {named.name: named.call.function.lower(*named.call.arguments) for named in drawn.step(64)}
    weights = jax.tree.leaves(drawn.frozen)
    shards = [math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in weights]
    result = {
        "model": config.model.name_or_path,
        "mesh": [args.data, args.model],
        "frozen_parameters": sum(math.prod(leaf.shape) for leaf in weights),
        "frozen_gb_of_a_device": sum(shards) * jnp.dtype(config.model.dtype).itemsize / 1e9,
        "lowered": list(programs),
        "seconds": time.perf_counter() - started,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
