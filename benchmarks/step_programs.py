"""The programs of a next-sentence training step, compiled for this machine's devices from shapes alone."""

import math
from unittest import mock

import jax

from gfn_jax.config.schema import Config
from gfn_jax.models.architecture import Architecture
from gfn_jax.planning.compiled import Program
from gfn_jax.planning.programs import outline_for
from gfn_jax.policy import sampler


class StepPrograms:
    """`sample`, `likelihood` and `update` of next-sentence continuation, as one device runs them.

    For texts of full length: what the loop does with fewer samples, when some have ended, is left out.

    programs   by name
    temporary  bytes that each needs beside its arguments
    arguments  bytes of its arguments, weights among them, on one device
    """

    def __init__(self, config: Config, architecture: Architecture, prompt_length: int):
        drawn = outline_for(config, architecture, jax.devices())
        self.adapter, self.frozen = drawn.structure.abstract_adapter, drawn.structure.abstract_frozen
        calls = {named.name: named.call for named in drawn.step(prompt_length)}
        with mock.patch.object(sampler, "WORTH_NARROWING", math.inf):
            compiled = {name: call.function.lower(*call.arguments).compile() for name, call in calls.items()}
        turns = config.sampling.max_len - 1  # no model reads the last token
        self.programs = {name: Program(each.as_text(), open_loops=turns) for name, each in compiled.items()}
        memory = {name: each.memory_analysis() for name, each in compiled.items()}
        self.temporary = {name: each.temp_size_in_bytes for name, each in memory.items()}
        self.arguments = {name: each.argument_size_in_bytes for name, each in memory.items()}
