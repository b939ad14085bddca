"""Compiles a run's programs for a machine, and says what each holds and does there."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from gfn_jax.config.schema import Config
from gfn_jax.models.architecture import Architecture
from gfn_jax.models.mesh import batch_size
from gfn_jax.planning.compiled import Program
from gfn_jax.planning.flops import product_flops
from gfn_jax.planning.programs import Named, Outline, outline_for
from gfn_jax.planning.targets import Target
from gfn_jax.runtime.errors import UserError

_OPTIONS: dict[str, dict[str, Any]] = {
    # Without a GPU nothing is timed, and the products' own kernels would get tiles that nobody has tried.
    "gpu": {"xla_gpu_enable_triton_gemm": False},
    "tpu": {},
}
_TOO_LARGE = "RESOURCE_EXHAUSTED"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program on one device of the target; bytes and FLOPs are a device's.

    seconds        that compiling took here
    arguments      bytes that it is given, weights among them
    temporaries    bytes that it needs beside them, what it returns included
    flops          of its matrix products
    collectives    kind -> how often in a run of the program, and the bytes that it makes
    kernels        that a GPU launches; of a turn of its longest loop, `kernels_of_a_turn`
    cycles         that a TPU's compiler reckons with; of a turn of its longest loop, `cycles_of_a_turn`
    padding        bytes of a loop's state that a TPU's tiles add to it
    refused        what the compiler said where the program is too large for the device; all else is 0 then
    """

    name: str
    length: int
    seconds: float
    arguments: int = 0
    temporaries: int = 0
    flops: float = 0.0
    collectives: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    kernels: int = 0
    kernels_of_a_turn: int = 0
    cycles: int = 0
    cycles_of_a_turn: int = 0
    padding: int = 0
    refused: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run's programs need of a device of the target, at `resident` bytes that stay there all the time."""

    target: Target
    mesh: dict[str, int]
    prompts_of_a_device: int
    microbatch: int
    resident: int
    programs: list[Compiled]

    @property
    def peak(self) -> int:
        """The most bytes of a device at one time: what stays, and the largest program's temporaries."""
        return self.resident + max((each.temporaries for each in self.programs), default=0)

    @property
    def fits(self) -> bool:
        return self.peak <= self.target.usable_bytes and not any(each.refused for each in self.programs)

    def advice(self, config: Config) -> list[str]:
        """What would make the run smaller, the cheapest first."""
        model, found = config.model, []
        if not model.remat:
            found.append("model.remat=True")
        if self.microbatch > 1:
            found.append(f"train.microbatch_prompts={self.microbatch // 2}")
        if self.mesh["data"] > 1 and not config.mesh.fsdp:
            found.append("mesh.fsdp=True")
        if not model.quantize:
            found.append("model.quantize=int8")
        if config.eval.prompts_per_batch > self.mesh["process"] * self.mesh["data"]:
            found.append(f"eval.prompts_per_batch={config.eval.prompts_per_batch // 2}")
        return found


def plan(
    config: Config,
    architecture: Architecture,
    target: Target,
    *,
    lengths: list[int],
    compared: int = 0,
    on_program: Callable[[Compiled], None] = lambda _: None,
) -> Plan:
    """Compiles every program for the target, with prompts padded to each of these lengths.

    To those of training comes what `gfn_jax.evaluate` draws `compared` continuations of a prompt by, if any. Raises
    `UserError` where the configuration does not fit the target's devices.
    """
    drawn = outline_for(config, architecture, target.devices)
    programs = []
    for named in _programs(drawn, lengths, compared):
        programs.append(compile_for(named, target))
        on_program(programs[-1])
    prompts = config.train.prompts_per_step // batch_size(drawn.mesh)
    resident = _bytes_of_a_device(drawn.frozen) + _bytes_of_a_device(drawn.state)
    mesh = dict(drawn.mesh.shape)
    return Plan(target, mesh, prompts, drawn.functions.microbatch, resident, programs)


def _programs(drawn: Outline, lengths: list[int], compared: int) -> Iterator[Named]:
    for length in lengths:
        yield from drawn.step(length)
    yield from drawn.validation(lengths[-1])
    if drawn.config.reward.nli.name_or_path:
        yield from drawn.answers()
    if compared:
        yield from drawn.comparison(lengths[-1], compared)


def compile_for(named: Named, target: Target) -> Compiled:
    """A program compiled for the target, and read; raises `UserError` where its compiler fails."""
    traced = named.call.function.trace(*named.call.arguments)
    started = time.perf_counter()
    try:
        compiled = traced.lower().compile(compiler_options=_OPTIONS[target.kind])
    except jax.errors.JaxRuntimeError as error:
        if _TOO_LARGE not in str(error):
            raise UserError(
                f"{named.name} does not compile for {target.name}: {' '.join(str(error).split())[:300]}"
            ) from error
        said = " ".join(str(error).split())[:300]
        return Compiled(named.name, named.length, time.perf_counter() - started, refused=said)
    seconds = time.perf_counter() - started
    memory, program = compiled.memory_analysis(), Program(compiled.as_text(), named.turns)
    whole, turn = program.work, program.work_of_a_turn
    is_gpu = target.kind == "gpu"
    return Compiled(
        named.name,
        named.length,
        seconds,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        product_flops(traced.jaxpr, named.turns) / named.devices,
        _collectives(program),
        kernels=round(whole.kernels) if is_gpu else 0,
        kernels_of_a_turn=round(turn.kernels) if is_gpu else 0,
        cycles=round(whole.cycles),
        cycles_of_a_turn=round(turn.cycles),
        padding=round(program.padding),
    )


def _collectives(program: Program) -> dict[str, tuple[int, int]]:
    bytes_of = program.collective_bytes()
    counts = dict.fromkeys(bytes_of, 0.0)
    for each in program.collectives:
        counts[each.operation.removesuffix("-start")] += each.times
    return {kind: (round(counts[kind]), bytes_of[kind]) for kind in bytes_of}


def _bytes_of_a_device(tree: Any) -> int:
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )
