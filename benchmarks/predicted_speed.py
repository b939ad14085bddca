"""What the paper's step would take on one H200, predicted: nothing here is timed.

    python benchmarks/predicted_speed.py [--out docs/results/predicted_speed.json]

gpt2-xl, 32 prompts x 8 samples in one optimiser step, bfloat16. FLOPs and bytes of the matrix products are counted in
our compiled programs, loops as often as they run; each program takes the longer of what its FLOPs take at an assumed
share of the peak and its bytes at the memory's rate. The step as commonly written in PyTorch, prompt by prompt and
token by token with gradients, is bound by launching its kernels one by one, and is predicted from their number.
"""

import argparse
import json
from pathlib import Path

from machine import describe
from scaling import HARDWARE, PROMPT_LENGTH, measure_alone
from step_programs import StepPrograms

from gfn_jax.models.hf_architecture import named_architecture

ASSUMED = {
    "flops_per_s": HARDWARE["flops_per_s"],
    "share_of_it": HARDWARE["share_of_it"],
    "bytes_per_s": 4.8e12,  # of its memory, as its maker says
    "launch_s": 5e-6,  # of one kernel from Python, while the GPU waits for the next
    "kernels_of_a_layer_forward": 45,  # norms, four adapted products of five each, attention with its cache, additions
    "kernels_of_a_layer_backward": 75,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    architecture = named_architecture("gpt2-xl")
    programs: StepPrograms = measure_alone(architecture)
    seconds = {}
    for name, program in programs.programs.items():
        by_flops = program.flops / (ASSUMED["flops_per_s"] * ASSUMED["share_of_it"])
        seconds[name] = max(by_flops, program.product_bytes / 2 / ASSUMED["bytes_per_s"])  # bfloat16: half of float32's
    passes, prompts = 1 + 30, 32  # the prompt, then every token
    kernels = passes * (ASSUMED["kernels_of_a_layer_forward"] + ASSUMED["kernels_of_a_layer_backward"])
    kernels += ASSUMED["kernels_of_a_layer_forward"]  # the frozen model's pass
    as_written = prompts * architecture.depth * kernels * ASSUMED["launch_s"]
    result = {
        "prediction": True,
        "assumed": ASSUMED,
        "prompt_tokens": PROMPT_LENGTH,
        "tflop": {name: program.flops / 1e12 for name, program in programs.programs.items()},
        "seconds": seconds,
        "step_seconds": sum(seconds.values()),
        "as_written_seconds": as_written,
        "times_faster": as_written / sum(seconds.values()),
        **describe(),
    }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
