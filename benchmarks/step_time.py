"""One optimiser step by this project and by PyTorch (transformers and peft): the same work, alternating, in one run.

    python benchmarks/step_time.py [--model gpt2] [--prompts 4] [--rounds 7] [--out FILE.json] [--plot FILE]
    python benchmarks/step_time.py --model gpt2-xl --dtype bfloat16 --remat --prompts 32 --microbatch 32 \
        --torch_microbatch 8                                                               the paper's, on a GPU

Next-sentence continuation with a language model: GPT-2's 124 million parameters with random weights, another size of
it, or that of a directory such as data/smollm2/model. Prompts of 40 tokens, 8 samples of up to 30, LoRA of rank 64 on
all linear layers, on a GPU where JAX and PyTorch both see one, or on the processor. Three systems, each in a process of
its own:

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
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import describe
from rich.console import Console
from rich.table import Table

PROMPT, SAMPLES, LENGTH, RANK, TERMINATOR, TEMPERATURE = 40, 8, 30, 64, 13, 0.8
SYSTEMS = ("ours", "as_written", "at_best")
DEVICE, PRODUCT = ("cpu", "cuda"), (2048, 8192)  # without a GPU, and with one
SIZES = {
    "gpt2": {},
    "gpt2-large": {"n_layer": 36, "n_embd": 1280, "n_head": 20},
    "gpt2-xl": {"n_layer": 48, "n_embd": 1600, "n_head": 25},
}
AGREEMENT = {"float32": 1e-4, "bfloat16": 5e-2}


class Setting(NamedTuple):
    """What the systems have in common, and what each may choose."""

    directory: Path
    prompts: int
    dtype: str
    remat: bool
    microbatch: int
    torch_microbatch: int


def settings(given: Setting) -> Any:
    """The configuration of our side."""
    from gfn_jax.config.base import base
    from gfn_jax.config.reading import parse_config

    raw = base()
    raw.data.path, raw.model.name_or_path = "none", str(given.directory / "model")
    raw.model.dtype, raw.model.remat = given.dtype, given.remat
    raw.model.lora.rank = raw.model.lora.alpha = RANK
    raw.sampling.samples_per_prompt, raw.sampling.min_len, raw.sampling.max_len = SAMPLES, 0, LENGTH
    raw.reward.temperature_start = raw.reward.temperature_end = TEMPERATURE
    raw.train.prompts_per_step, raw.train.microbatch_prompts = given.prompts, given.microbatch
    return parse_config(raw.to_dict())


class Ours:
    """This project's step, from the functions that training compiles."""

    def __init__(self, given: Setting):
        import jax

        from gfn_jax.models.layout import WHEREVER
        from gfn_jax.models.loading import find_model, load_model
        from gfn_jax.models.mesh import make_mesh, weight_shardings
        from gfn_jax.planning.programs import outline
        from gfn_jax.runtime.startup import configure_jax

        config = settings(given)
        configure_jax(given.dtype)
        mesh, found = make_mesh(1, 1), find_model(config.model, WHEREVER)
        shardings = weight_shardings(mesh, found.structure, fsdp=False)
        adapter, self._frozen, _ = load_model(found, mesh, shardings, config.seed)
        banned = np.load(given.directory / "banned.npy")
        self._step = outline(config, found.structure, mesh, banned, terminator=TERMINATOR)
        adapter = jax.tree.map(lambda x: 0.05 * jax.random.normal(jax.random.key(1), x.shape), adapter)
        self._state = self._step.functions.init(adapter)
        self._number = 0

    def save_adapter(self, directory: Path) -> None:
        """For the other systems, as PEFT's."""
        from gfn_jax.models import peft_adapters

        directory.mkdir()
        peft_adapters.save(directory, self._state.adapter, self._step.context.structure, "the same for all")

    def evaluate(self, prompts_BxP: np.ndarray, tokens_NxL: np.ndarray, length_N: np.ndarray) -> list[np.ndarray]:
        import jax
        import jax.numpy as jnp

        from gfn_jax import objectives
        from gfn_jax.policy.scorer import score
        from gfn_jax.types import Trajectories

        step, config = self._step, self._step.context.config
        trajectories = jax.tree.map(jnp.asarray, Trajectories.given(jnp.asarray(tokens_NxL), jnp.asarray(length_N)))
        prompts = self._prompts(prompts_BxP)
        components = step.reward.components(self._frozen, (), prompts, trajectories)

        @jax.jit
        def compute(adapter, frozen, prompts, trajectories, components):
            models = step.context.structure.policy_and_frozen(adapter, frozen)
            scores = score(*models, step.rules, prompts, trajectories)
            log_r = step.reward.combine(components, 0) / config.reward.temperature_end
            g, mask = objectives.log_ratio(scores, log_r), scores.is_terminable_NxT
            log_z = jnp.zeros(len(prompts_BxP))
            loss_B = objectives.subtb(g, log_r, mask, log_z, samples_per_prompt=SAMPLES, subtb_lambda=1.0)
            return scores.log_pf_NxL, log_r, loss_B.mean()

        return jax.device_get(compute(self._state.adapter, self._frozen, prompts, trajectories, components))

    def train_step(self, prompts_BxP: np.ndarray) -> dict[str, float]:
        """Returns the seconds of each phase."""
        import jax

        step, frozen, prompts = self._step, self._frozen, self._prompts(prompts_BxP)
        times = [time.perf_counter()]

        def done(result: Any) -> Any:
            jax.block_until_ready(result)
            times.append(time.perf_counter())
            return result

        trajectories = done(step.functions.sample(self._state.adapter, frozen, prompts, self._number))
        components = done(step.reward.components(frozen, (), prompts, trajectories))
        self._state, _ = done(step.functions.update(self._state, frozen, prompts, trajectories, components, None))
        self._number += 1
        return dict(zip(("sample", "likelihood", "update"), np.diff(times).tolist(), strict=True))

    def _prompts(self, prompts_BxP: np.ndarray) -> Any:
        from gfn_jax.types import Prompts

        lengths = np.full(len(prompts_BxP), PROMPT, np.int32)
        return self._step.context.rows.place(Prompts(prompts_BxP.astype(np.int32), lengths))

    def product_rate(self) -> float:
        """FLOPs a second of a large product."""
        import jax
        import jax.numpy as jnp

        size = PRODUCT[jax.default_backend() != "cpu"]
        x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(self._step.context.config.model.dtype))
        multiply = jax.jit(jnp.matmul)
        return 2 * size**3 / best_time(lambda: multiply(x, x).block_until_ready())

    def copy_rate(self) -> float:
        """Bytes read and written a second while a large array is copied."""
        import jax
        import jax.numpy as jnp

        if jax.default_backend() == "cpu":
            source, target = np.ones(1 << 28, np.uint8), np.empty(1 << 28, np.uint8)
            return 2 * source.size / best_time(lambda: np.copyto(target, source), tries=5)
        x, add = jnp.ones(1 << 28, jnp.float32), jax.jit(lambda x: x + 1)
        return 2 * x.nbytes / best_time(lambda: add(x).block_until_ready())

    def device(self) -> str:
        import jax

        return jax.default_backend()

    def peak_memory(self) -> int:
        """Bytes: of the device, or of this process where it is the processor."""
        import jax

        found = jax.devices()[0].memory_stats() or {}
        return found.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def programs(self) -> dict[str, tuple[float, float]]:
        """FLOPs, and bytes of operands and results, of the matrix products of each compiled program."""
        from step_programs import StepPrograms

        config = self._step.context.config
        programs = StepPrograms(config, self._step.context.structure.architecture, PROMPT).programs
        return {name: (program.flops, program.product_bytes) for name, program in programs.items()}


class Torch:
    """A system in PyTorch behind the same methods."""

    def __init__(self, name: str, given: Setting):
        import torch
        import torch_gflownet

        torch.set_default_device(DEVICE[torch.cuda.is_available()])
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        policy = {"as_written": torch_gflownet.TorchAsWritten, "at_best": torch_gflownet.TorchAtBest}[name]
        self._dtype = getattr(torch, given.dtype)
        sizes = {"samples": SAMPLES, "length": LENGTH, "terminator": TERMINATOR, "microbatch": given.torch_microbatch}
        self._policy = policy(given.directory, **sizes, dtype=self._dtype)

    def evaluate(self, *arrays: np.ndarray) -> list[np.ndarray]:
        import torch
        from torch_gflownet import Prompts

        prompts_BxP, *trajectories = arrays
        given = Prompts.padded(prompts_BxP.tolist()), *(torch.tensor(x).long() for x in trajectories)
        with torch.no_grad(), self._policy.autocast():
            return [values.cpu().numpy() for values in self._policy.evaluate(*given, TEMPERATURE)]

    def device(self) -> str:
        import torch

        return DEVICE[torch.cuda.is_available()].replace("cuda", "gpu")

    def train_step(self, prompts_BxP: np.ndarray) -> None:
        from torch_gflownet import Prompts

        self._policy.train_step(Prompts.padded(prompts_BxP.tolist()), TEMPERATURE)
        self._wait()

    def product_rate(self) -> float:
        import torch

        size = PRODUCT[torch.cuda.is_available()]
        x = torch.randn(size, size, dtype=self._dtype)

        def multiply() -> None:
            _ = x @ x
            self._wait()

        return 2 * size**3 / best_time(multiply)

    def peak_memory(self) -> int:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _wait(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def serve(name: str, given: Setting, orders: Connection) -> None:
    """A system's process: does what it is told, by the name of a method, and answers with result and seconds."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # a GPU is shared with the others
    system = Ours(given) if name == "ours" else Torch(name, given)
    while order := orders.recv():
        method, *arguments = order
        started = time.perf_counter()
        result = getattr(system, method)(*arguments)
        orders.send((result, time.perf_counter() - started))


class Worker:
    """A system in a process of its own; a context, at whose end the process is ended."""

    def __init__(self, name: str, given: Setting):
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(name, given, theirs))
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def timed(self, method: str, *arguments: Any) -> tuple[Any, float]:
        self._orders.send((method, *arguments))
        return self._orders.recv()

    def do(self, method: str, *arguments: Any) -> Any:
        return self.timed(method, *arguments)[0]


def best_time(compute: Callable[[], Any], tries: int = 10) -> float:
    """The least seconds of several runs, after one that warms up."""
    compute()
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def prepare(directory: Path, model: str, dtype: str) -> None:
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
    banned[TERMINATOR] = False
    np.save(directory / "banned.npy", banned)


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
    prompts_BxP = rng.integers(0, 49_000, (args.prompts, PROMPT))
    trajectories = args.prompts * SAMPLES

    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        process = multiprocessing.get_context("spawn").Process(target=prepare, args=(directory, args.model, args.dtype))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"--model {args.model} could not be prepared")
        at_once = args.microbatch or min(4, args.prompts), args.torch_microbatch or args.prompts
        given = Setting(directory, args.prompts, args.dtype, args.remat, *at_once)
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
        allowed = np.flatnonzero(~banned & (np.arange(len(banned)) != TERMINATOR))
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
        "prompts": args.prompts,
        "microbatch": {"ours": given.microbatch, "at_best": given.torch_microbatch},
        "seconds": {name: interval(values) for name, values in seconds.items()},
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
        "share_of_floor": sum(floor.values()) / median["ours"],
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
    console.print(f"ours: {phases}")
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
    axes.legend(loc="center right", frameon=False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
