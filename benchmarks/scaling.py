"""Memory, communication and weak scaling of training steps, from compiled programs and a short model.

    python benchmarks/scaling.py [--models gpt2 gpt2-xl ...] [--out docs/results/scaling.json]
    python benchmarks/scaling.py --tables docs/results/scaling.json       the tables of docs/scaling.md

Compiles the programs of one step for one device, and for four with `mesh.fsdp` and with `mesh.model`, from shapes
alone; counts their FLOPs, bytes and collectives with all loops; and extrapolates to more devices. Speeds of
hardware are assumptions, written into the result.
"""

import argparse
import json
import math
import os
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
from machine import describe
from rich.console import Console
from step_programs import StepPrograms

from configs.next_sentence_gpt2_xl import get_config
from gfn_jax.config.reading import parse_config
from gfn_jax.config.schema import Config
from gfn_jax.models.architecture import Architecture
from gfn_jax.models.gpt2 import GPT2Config
from gfn_jax.models.hf_architecture import named_architecture

PROMPT_LENGTH = 48
MODELS = {name: named_architecture(name) for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")} | {
    "7B": GPT2Config(n_embd=4096, n_layer=32, n_head=32, n_positions=2048)
}
DEVICES = (1, 4, 8, 64, 256, 1024)
HARDWARE = {  # what is assumed, of one H200 in machines of eight
    "flops_per_s": 989e12,  # dense bfloat16 products, as its maker says
    "share_of_it": 0.4,
    "within_machine_bytes_per_s": 300e9,  # of the 450e9 each way that NVLink has
    "between_machines_bytes_per_s": 40e9,  # of one 400 Gbit/s port for a whole machine: with a port a GPU, eight times
    "devices_in_a_machine": 8,
    "latency_s": 20e-6,  # of each exchange in a tree
    "host_messages_s": 1e-3,  # what processes tell each other in a step
}


def settings(architecture: Architecture, data: int, model: int, *, fsdp: bool) -> Config:
    """The paper's step, on each of `data` devices."""
    raw = get_config().unlock()
    raw.data.path = "-"
    raw.model.dtype = "float32"  # a CPU's compiler would compute bfloat16 by way of float32 copies
    raw.mesh.data, raw.mesh.model, raw.mesh.fsdp = data, model, fsdp
    raw.replay.fraction = 0.0  # all samples are fresh: no step costs more
    raw.train.prompts_per_step *= data
    raw.train.microbatch_prompts = 4
    return parse_config(raw.to_dict())


def measure_alone(architecture: Architecture) -> StepPrograms:
    """The programs of a single device."""
    return StepPrograms(settings(architecture, 1, 1, fsdp=False), architecture, PROMPT_LENGTH)


def measure(architecture: Architecture) -> dict:
    """Figures of one device's programs; bytes of float32, which for weights and activations bfloat16 halves."""
    alone = measure_alone(architecture)
    sharded = StepPrograms(settings(architecture, 4, 1, fsdp=True), architecture, PROMPT_LENGTH)
    figures = {
        "frozen_parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(alone.frozen)),
        "adapter_parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(alone.adapter)),
        "tflop": {name: program.flops / 1e12 for name, program in alone.programs.items()},
        "temporary_gb": {name: size / 1e9 for name, size in alone.temporary.items()},
        "fsdp_temporary_gb": {name: size / 1e9 for name, size in sharded.temporary.items()},
        "fsdp_gathered_gb": {
            name: program.collective_bytes()["all-gather"] / 1e9 for name, program in sharded.programs.items()
        },
    }
    if architecture.key_value_heads % 4 == 0:
        split = StepPrograms(settings(architecture, 1, 4, fsdp=False), architecture, PROMPT_LENGTH)
        figures["model_parallel_temporary_gb"] = {name: size / 1e9 for name, size in split.temporary.items()}
        figures["model_parallel_exchanged_gb"] = {
            name: sum(program.collective_bytes().values()) / 1e9 for name, program in split.programs.items()
        }
    return figures


def predict(figures: dict, devices: int) -> dict:
    """A step of the paper's size on each of so many devices, prompts split, in bfloat16."""
    compute = sum(figures["tflop"].values()) * 1e12 / (HARDWARE["flops_per_s"] * HARDWARE["share_of_it"])
    gradient = 4 * figures["adapter_parameters"]
    is_within = devices <= HARDWARE["devices_in_a_machine"]
    speed = HARDWARE[f"{'within_machine' if is_within else 'between_machines'}_bytes_per_s"]
    sent = 2 * (devices - 1) / devices * gradient
    exchange = sent / speed + 2 * math.log2(devices) * HARDWARE["latency_s"]
    messages = 0.0 if devices == 1 else HARDWARE["host_messages_s"]
    return {
        "compute_s": compute,
        "gradient_sent_gb": sent / 1e9,
        "exchange_s": exchange,
        "weak_scaling": compute / (compute + exchange + messages),
    }


def memory(figures: dict, *, parts: int = 1) -> float:
    """GB on each device in bfloat16, the frozen weights in so many parts: these, 4 values an adapter's, temporaries."""
    temporary = figures["temporary_gb" if parts == 1 else "fsdp_temporary_gb"]
    state = 4 * 4 * figures["adapter_parameters"] / 1e9
    return 2 * figures["frozen_parameters"] / parts / 1e9 + state + max(temporary.values()) / 2


def tables(models: dict) -> str:
    """What the documentation shows of a result, in Markdown."""

    def table(headings: list[str], rows: list[list]) -> str:
        lines = [headings, ["---"] * len(headings), *rows]
        return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"

    sizes = [
        [
            name,
            f"{each['frozen_parameters'] / 1e6:,.0f} M",
            f"{each['adapter_parameters'] / 1e6:.1f} M",
            f"{sum(each['tflop'].values()):,.0f}",
            f"{each['memory_gb']['whole']:.1f}",
            f"{each['memory_gb']['fsdp over 4']:.1f}",
        ]
        for name, each in models.items()
    ]
    traffic = [
        [
            name,
            f"{4 * each['adapter_parameters'] / 1e9:.2f}",
            *(
                f"{sum(each[kind].values()) / 2:,.0f}" if kind in each else "(heads do not divide)"
                for kind in ("model_parallel_exchanged_gb", "fsdp_gathered_gb")
            ),
            f"{each['fsdp_gathered_gb']['sample'] / 2:,.0f}",
        ]
        for name, each in models.items()
    ]
    scaling = [
        [name, f"{each['devices']['1']['compute_s']:.2f}"]
        + [f"{each['devices'][str(count)]['weak_scaling']:.1%}" for count in DEVICES[1:]]
        for name, each in models.items()
    ]
    return "\n".join(
        [
            table(["model", "frozen", "adapter", "TFLOP", "GB", "GB, fsdp over 4"], sizes),
            table(["model", "gradient", "mesh.model = 4", "fsdp over 4", "of it, sampling"], traffic),
            table(["model", "step, s", *map(str, DEVICES[1:])], scaling),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tables", type=Path, help="print the tables of a result, and do nothing else")
    args = parser.parse_args()
    if args.tables:
        print(tables(json.loads(args.tables.read_text())["models"]))
        return
    console, results = Console(soft_wrap=True), {}
    for name in args.models:
        figures = measure(MODELS[name])
        figures["memory_gb"] = {"whole": memory(figures), "fsdp over 4": memory(figures, parts=4)}
        figures["devices"] = {count: predict(figures, count) for count in DEVICES}
        results[name] = figures
        scaling = ", ".join(f"{count}: {each['weak_scaling']:.1%}" for count, each in figures["devices"].items())
        console.print(
            f"{name}: {sum(figures['tflop'].values()):.0f} TFLOP a step and device, "
            f"{figures['memory_gb']['whole']:.1f} GB ({figures['memory_gb']['fsdp over 4']:.1f} GB with fsdp over 4); "
            f"weak scaling {scaling}"
        )
    if args.out:
        args.out.write_text(json.dumps({"hardware": HARDWARE, "models": results, **describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
