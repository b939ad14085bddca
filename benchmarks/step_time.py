"""One optimiser step by this project and by PyTorch (transformers and peft): the same work, alternating, in one run.

    python benchmarks/step_time.py [--model gpt2] [--prompts 4] [--rounds 7] [--out FILE.json] [--plot FILE]
    python benchmarks/step_time.py --model gpt2-xl --dtype bfloat16 --remat --prompts 32 --microbatch 32 \
        --torch_microbatch 8                                                               the paper's, on a GPU

Next-sentence continuation with a language model: GPT-2's 124 million parameters with random weights, another size of
it, or that of a directory such as data/smollm2/model. Prompts of 40 tokens, 8 samples of up to 30, LoRA of rank 64 on
all linear layers. A policy that was trained ends its texts sooner than random weights do: --adapter takes one, as
`gfn-jax export` writes it, and --text its prompts. On a GPU where JAX and PyTorch both see one, or on the processor.
Three systems, each in a process of its own:

    ours        sampling, likelihood reward and update, as `python -m gfn_jax.train` does them
    as_written  PyTorch as commonly written: prompt by prompt, tokens drawn one by one with gradients recorded, the
                frozen model's pass over what was drawn, then backward
    at_best     PyTorch with all prompts at once: `generate` without gradients, then teacher-forced passes with them, of
                --torch_microbatch prompts each; both PyTorch systems under autocast in bfloat16

Before anything is timed, the three agree on log pi, log R and the loss of given trajectories to 1e-4, in bfloat16 to
5e-2. The floor is what ours computes, its matrix products counted in the compiled programs with their loops' trip
counts, at the best rate that a product of 2,048 x 2,048 x 2,048 (on a GPU 8,192) reaches in either framework, or the
bytes that these products read and write at the rate of a large copy, whichever takes longer, program by program. The
peak of memory is of all this, the agreement included.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from pathlib import Path

import numpy as np
from machine import describe
from rich.console import Console
from rich.table import Table
from step_systems import LENGTH, PROMPT, SAMPLES, Setting, Worker

TERMINATOR = 13
SYSTEMS = ("ours", "as_written", "at_best")
SIZES = {
    "gpt2": {},
    "gpt2-large": {"n_layer": 36, "n_embd": 1280, "n_head": 20},
    "gpt2-xl": {"n_layer": 48, "n_embd": 1600, "n_head": 25},
}
AGREEMENT = {"float32": 1e-4, "bfloat16": 5e-2}


def prepare(directory: Path, model: str, dtype: str, terminator: int) -> None:
    """A model on disk and a mask of banned items, the same for all."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if Path(model).is_dir():
        (directory / "model").symlink_to(Path(model).absolute())
    else:
        torch.manual_seed(0)
        whole = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **SIZES[model]))
        whole.to(getattr(torch, dtype)).save_pretrained(directory / "model")
    vocabulary = AutoConfig.from_pretrained(directory / "model").vocab_size
    banned = np.random.default_rng(0).random(vocabulary) < 0.03  # about as many as the default bans
    banned[terminator] = False
    np.save(directory / "banned.npy", banned)


def tokenised(model: str, text: Path, count: int) -> tuple[np.ndarray, int]:
    """Prompts [count, PROMPT], and the token of a full stop."""
    from gfn_jax.text.tokenizer import Tokenizer
    from gfn_jax.text.vocabulary import terminator_id

    tokenizer = Tokenizer(Path(model))
    rows = [ids[:PROMPT] for ids in tokenizer.encode_prompts(text.read_text().splitlines()) if len(ids) >= PROMPT]
    if len(rows) < count:
        raise SystemExit(f"--text {text}: {len(rows)} lines have {PROMPT} tokens; --prompts wants {count}")
    return np.array(rows[:count]), terminator_id(tokenizer, ".")


def interval(values: list[float]) -> list[float]:
    """Least, median and greatest."""
    return [min(values), statistics.median(values), max(values)]


def largest_difference(one: list[np.ndarray], other: list[np.ndarray], length_N: np.ndarray) -> float:
    """Of log pi, log R and loss, relative where they are above 1."""
    is_token = np.arange(LENGTH) < length_N[:, None]
    is_state = np.arange(LENGTH + 1) <= length_N[:, None]
    differences = []
    for a, b, counts in zip(one, other, (is_token, is_state, True), strict=True):
        differences.append(np.max(np.where(counts, np.abs(a - b) / np.maximum(1, np.abs(b)), 0)))
    return float(max(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="gpt2", help="gpt2, gpt2-large or gpt2-xl, with random weights, or a Hugging Face directory"
    )
    parser.add_argument("--adapter", type=Path, help="a PEFT directory; it wants --text")
    parser.add_argument("--text", type=Path, help="lines, whose first 40 tokens are the prompts")
    parser.add_argument("--dtype", default="float32", choices=AGREEMENT)
    parser.add_argument("--remat", action="store_true", help="ours computes a layer again in the backward pass")
    parser.add_argument("--prompts", type=int, default=4, help="in an optimiser step, with 8 samples each")
    parser.add_argument("--microbatch", type=int, help="prompts whose gradient ours computes at once; default 4")
    parser.add_argument("--torch_microbatch", type=int, help="and PyTorch at its best; default all")
    parser.add_argument("--rounds", type=int, default=7, help="steps of each system that are timed, in turn")
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    if args.model not in SIZES and not Path(args.model).is_dir():
        raise SystemExit(f"--model {args.model} is neither a directory nor one of {', '.join(SIZES)}")
    if args.adapter and not args.text:
        raise SystemExit("--adapter: what the policy goes on from is to be given, too (--text FILE)")
    prompts_BxP, terminator = rng.integers(0, 49_000, (args.prompts, PROMPT)), TERMINATOR
    if args.text:
        prompts_BxP, terminator = tokenised(args.model, args.text, args.prompts)
    trajectories = args.prompts * SAMPLES

    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        process = multiprocessing.get_context("spawn").Process(
            target=prepare, args=(directory, args.model, args.dtype, terminator)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"--model {args.model} could not be prepared")
        at_once = args.microbatch or min(4, args.prompts), args.torch_microbatch or args.prompts
        given = Setting(directory, args.adapter, terminator, args.prompts, args.dtype, args.remat, *at_once)
        result = measure(args, given, prompts_BxP, rng)
    result["trajectories_per_step"] = trajectories
    report(result)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    if args.plot:
        plot(result, args.plot)


def measure(args: argparse.Namespace, given: Setting, prompts_BxP: np.ndarray, rng: np.random.Generator) -> dict:
    import contextlib

    directory = given.directory
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Worker("ours", given))
        ours.do("save_adapter", directory / "adapter")
        others = {name: stack.enter_context(Worker(name, given)) for name in args.systems if name != "ours"}
        workers = {"ours": ours, **others}
        devices = {name: worker.do("device") for name, worker in workers.items()}
        if len(set(devices.values())) > 1:
            raise SystemExit(f"not on the same kind of device: {devices}")

        banned = np.load(directory / "banned.npy")
        allowed = np.flatnonzero(~banned & (np.arange(len(banned)) != given.terminator))
        length_N = rng.integers(0, LENGTH + 1, args.prompts * SAMPLES)
        length_N[:2] = 0, LENGTH
        tokens_NxL = np.where(np.arange(LENGTH) < length_N[:, None], rng.choice(allowed, (len(length_N), LENGTH)), 0)
        values = {
            name: worker.do("evaluate", prompts_BxP, tokens_NxL.astype(np.int32), length_N.astype(np.int32))
            for name, worker in workers.items()
        }
        agreement = {name: largest_difference(values[name], values["ours"], length_N) for name in others}
        if wrong := [name for name, difference in agreement.items() if not difference <= AGREEMENT[args.dtype]]:
            raise SystemExit(f"not the same computation as ours: {', '.join(wrong)}: {agreement}")
        for worker in workers.values():
            worker.do("train_step", prompts_BxP)
        print(f"{' and '.join(workers)} are compiled and agree; timing {args.rounds} rounds ...", flush=True)
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        phases: list[dict[str, float]] = []
        for number in range(1, args.rounds + 1):
            for name, worker in workers.items():
                found, passed = worker.timed("train_step", prompts_BxP)
                seconds[name].append(passed)
                phases += [found] if found else []
            said = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
            print(f"round {number} of {args.rounds}: {said}", flush=True)
        peak = {name: worker.do("peak_memory") for name, worker in workers.items()}
        rates = {name: worker.do("product_rate") for name, worker in workers.items()}
        bandwidth = ours.do("copy_rate")
        said = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in peak.items())
        print(f"at most {said}; counting what ours computes ...", flush=True)
        programs = ours.do("programs")

    rate = max(rates.values())
    floor = {name: max(flops / rate, size / bandwidth) for name, (flops, size) in programs.items()}
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "model": args.model,
        "dtype": args.dtype,
        "remat": args.remat,
        "adapter": "trained" if args.adapter else "random",
        "prompts": args.prompts,
        "microbatch": {"ours": given.microbatch, "at_best": given.torch_microbatch},
        "seconds": {name: interval(values) for name, values in seconds.items()},
        "seconds_of_rounds": seconds,
        "tokens_of_a_sample": statistics.fmean(each["tokens"] for each in phases),
        "phase_seconds": {name: interval([each[name] for each in phases]) for name in programs},
        "times_faster_than": {
            name: interval([theirs / mine for theirs, mine in zip(seconds[name], seconds["ours"], strict=True)])
            for name in others
        },
        "largest_difference": agreement,
        "peak_memory_gb": {name: size / 1e9 for name, size in peak.items()},
        "gflops_of_product": {name: value / 1e9 for name, value in rates.items()},
        "copy_gb_per_s": bandwidth / 1e9,
        "tflop_of_step": {name: flops / 1e12 for name, (flops, _) in programs.items()},
        "floor_seconds": floor,
        "share_of_floor": None if args.adapter else sum(floor.values()) / median["ours"],
        "rounds": args.rounds,
        **describe(),
    }


def report(result: dict) -> None:
    table = Table("system", "s / step", "from .. to", "trajectories / s", "slower than ours", "peak GB")
    for name, (low, median, high) in result["seconds"].items():
        ratio = result["times_faster_than"].get(name)
        table.add_row(
            name,
            f"{median:.2f}",
            f"{low:.2f} .. {high:.2f}",
            f"{result['trajectories_per_step'] / median:.2f}",
            f"{ratio[1]:.2f} ({ratio[0]:.2f} .. {ratio[2]:.2f})" if ratio else "",
            f"{result['peak_memory_gb'][name]:.2f}",
        )
    console = Console()
    console.print(table)
    phases = ", ".join(f"{name} {median:.2f} s" for name, (_, median, _) in result["phase_seconds"].items())
    console.print(f"ours: {phases}; {result['tokens_of_a_sample']:.1f} tokens a sample")
    if result["share_of_floor"] is None:  # the programs' FLOPs are those of the longest samples
        return
    console.print(
        f"floor {sum(result['floor_seconds'].values()):.2f} s for {sum(result['tflop_of_step'].values()):.2f} TFLOP: "
        f"ours reaches {result['share_of_floor']:.0%} of it"
    )


def plot(result: dict, file: Path) -> None:
    import matplotlib.pyplot as plt

    labels = {"ours": "gfn_jax", "at_best": "PyTorch at its best", "as_written": "PyTorch as written"}
    names = [name for name in labels if name in result["seconds"]]
    rates = [[result["trajectories_per_step"] / value for value in result["seconds"][name]] for name in names]
    figure, axes = plt.subplots(figsize=(6.4, 2.2), layout="constrained")
    middle = [rate[1] for rate in rates]
    errors = [[rate[1] - rate[2] for rate in rates], [rate[0] - rate[1] for rate in rates]]
    axes.barh([labels[name] for name in names], middle, xerr=errors, color=["C0", "C7", "C7"][: len(names)])
    floor = result["trajectories_per_step"] / sum(result["floor_seconds"].values())
    axes.axvline(floor, color="C3", lw=1, ls="--", label="this machine's floor")
    axes.set(xlabel="trajectories / s")
    axes.invert_yaxis()
    axes.legend(loc="lower center", frameon=False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
