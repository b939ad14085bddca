"""One optimiser step, by this project and by PyTorch, behind the same methods: for `step_time.py`.

Each system stands in a process of its own, which alone imports what it needs.
"""

import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PROMPT, SAMPLES, LENGTH, RANK, TEMPERATURE = 40, 8, 30, 64, 0.8
DEVICE, PRODUCT = ("cpu", "cuda"), (2048, 8192)  # without a GPU, and with one


class Setting(NamedTuple):
    """What the systems have in common, and what each may choose.

    `trained` is a PEFT adapter to begin with, instead of a random one.
    """

    directory: Path
    trained: Path | None
    terminator: int
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
    if given.trained:
        said = json.loads((given.trained / "adapter_config.json").read_text())
        raw.model.lora.rank, raw.model.lora.alpha = said["r"], said["lora_alpha"]
        raw.model.lora.init_from = str(given.trained)
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

        self._config = config = settings(given)
        configure_jax(given.dtype)
        mesh, found = make_mesh(1, 1), find_model(config.model, WHEREVER)
        shardings = weight_shardings(mesh, found.structure, fsdp=False)
        adapter, self._frozen, _ = load_model(found, mesh, shardings, config.seed)
        banned = np.load(given.directory / "banned.npy")
        self._step = outline(config, found.structure, mesh, banned, terminator=given.terminator)
        if not given.trained:
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

        step = self._step
        trajectories = jax.tree.map(jnp.asarray, Trajectories.given(jnp.asarray(tokens_NxL), jnp.asarray(length_N)))
        prompts = self._prompts(prompts_BxP)
        components = step.reward.components(self._frozen, (), prompts, trajectories)

        @jax.jit
        def compute(adapter, frozen, prompts, trajectories, components):
            models = step.context.structure.policy_and_frozen(adapter, frozen)
            scores = score(*models, step.rules, prompts, trajectories)
            log_r = step.reward.combine(components, jnp.int32(0)) / TEMPERATURE
            g, mask = objectives.log_ratio(scores, log_r), scores.is_terminable_NxT
            log_z = jnp.zeros(len(prompts_BxP))
            loss_B = objectives.subtb(g, log_r, mask, log_z, samples_per_prompt=SAMPLES, subtb_lambda=1.0)
            return scores.log_pf_NxL, log_r, loss_B.mean()

        return jax.device_get(compute(self._state.adapter, self._frozen, prompts, trajectories, components))

    def train_step(self, prompts_BxP: np.ndarray) -> dict[str, float]:
        """Returns the seconds of each phase, and the mean number of tokens that were drawn for a sample."""
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
        tokens = float(trajectories.length_N.mean())
        seconds = dict(zip(("sample", "likelihood", "update"), np.diff(times).tolist(), strict=True))
        return seconds | {"tokens": tokens}

    def _prompts(self, prompts_BxP: np.ndarray) -> Any:
        import jax.numpy as jnp

        from gfn_jax.types import Prompts

        lengths = np.full(len(prompts_BxP), PROMPT, np.int32)
        return self._step.context.rows.place(Prompts(jnp.asarray(prompts_BxP, jnp.int32), jnp.asarray(lengths)))

    def product_rate(self) -> float:
        """FLOPs a second of a large product."""
        import jax
        import jax.numpy as jnp

        size = PRODUCT[jax.default_backend() != "cpu"]
        x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(self._config.model.dtype))
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

        programs = StepPrograms(self._config, self._step.context.structure.architecture, PROMPT).programs
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
        sizes = {"samples": SAMPLES, "length": LENGTH, "microbatch": given.torch_microbatch}
        self._policy = policy(given.directory, **sizes, terminator=given.terminator, dtype=self._dtype)

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
