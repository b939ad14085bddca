"""All that happens before a run's first step: reading, checking, compiling, taking possession of its directory."""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from gfn_jax.config.schema import Config
from gfn_jax.evaluation.validation import Validation
from gfn_jax.experiment.examples import Examples
from gfn_jax.experiment.experiment import Experiment, build
from gfn_jax.experiment.snapshot import Snapshot
from gfn_jax.experiment.warm_up import WarmUp
from gfn_jax.models.mesh import batch_size, check_splits
from gfn_jax.models.parts import Weights
from gfn_jax.replay.buffer import ReplayBuffer
from gfn_jax.rewards.names import check_names
from gfn_jax.rewards.user_function import Function
from gfn_jax.runs.checkpoint import Checkpoints
from gfn_jax.runs.directory import (
    check_data,
    check_ownership,
    check_visible,
    claimed,
    keep_beginning,
    namespace,
    read_run_id,
    with_kept_beginning,
)
from gfn_jax.runs.tracking import check_login
from gfn_jax.runtime import distributed
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.json_files import read_json, replace_file
from gfn_jax.runtime.machine import describe_devices, describe_machine, rounding_changes
from gfn_jax.tasks import make_task
from gfn_jax.training.replay_rows import idle_rows, make_buffer


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What training works with; `beginning` is the state of a run that has none saved."""

    workdir: Path
    examples: Examples
    experiment: Experiment
    beginning: Snapshot
    validation: Validation
    warm_up: WarmUp
    buffer: ReplayBuffer
    checkpoints: Checkpoints


def prepare(
    config: Config, workdir: Path, console: Console, stack: contextlib.ExitStack, function: Function | None = None
) -> Prepared:
    """Reads and checks everything that the configuration names, in all processes, before the main one writes.

    What must be closed in the end is given to the stack. Raises `UserError` for whatever the user can mend.
    """
    is_main = distributed.is_main()
    with distributed.in_agreement():
        distributed.check_same({"configuration": config.model_dump_json()})
        check_ownership(workdir, config)
        if is_main:
            check_login(config.tracking)
        examples = Examples.load(make_task(config), config.seed)
        data_hash = examples.sha256()
        check_data(workdir, data_hash)
    run_id = distributed.of_main(read_run_id(workdir))
    name = distributed.of_main(namespace(workdir, run_id))
    everything = [*examples.train, *examples.validation]
    with distributed.in_agreement():
        distributed.check_same({"content in its data files": data_hash})
        buffer = make_buffer(config.replay, name)
        experiment = stack.enter_context(build(with_kept_beginning(workdir, config), function))
        check_splits("train.prompts_per_step", config.train.prompts_per_step, batch_size(experiment.mesh))
        experiment.check_prompts(everything)
    with distributed.in_agreement():
        began = {"adapter in model.lora.init_from": _sha256(experiment.adapter)} if config.model.lora.init_from else {}
        distributed.check_same({**experiment.model_content, **began})
    if experiment.remark:
        console.print(experiment.remark, soft_wrap=True)
    console.print(f"on {describe_devices(experiment.mesh.size)}")
    if idle := idle_rows(config, len(examples.train)):
        console.print(idle, soft_wrap=True)
    console.print(f"{len(examples.train)} training and {len(examples.validation)} validation examples; compiling ...")

    # The reward's own models, which check the examples too, start meanwhile.
    with distributed.in_agreement():
        checked = experiment.request_check(everything)
    beginning = experiment.beginning()
    warm_up = stack.enter_context(WarmUp(experiment, beginning.state, examples.train))
    validation = Validation(experiment, examples.validation)
    warm_up.add(validation.to_compile())
    like = validation.sample_frozen()
    with distributed.in_agreement():
        checked()
        check_names("a component of the reward", like())
        judges = experiment.reward.judges()
    with distributed.in_agreement():
        distributed.check_same(judges)
    warm_up.of_rewards(like, validation.to_compile_of_rewards)
    with distributed.in_agreement():
        if is_main:
            stack.enter_context(claimed(workdir, config, data_hash, run_id))
            keep_beginning(workdir, config)
            _remember_machine(workdir / "machine.json", console)
            stack.enter_context(contextlib.closing(buffer))
    with distributed.in_agreement():
        check_visible(workdir, run_id)
    keep, keep_best = config.train.keep_checkpoints, config.train.keep_best
    with distributed.in_agreement():
        saved = Checkpoints(workdir / "checkpoints", experiment.content, keep=keep, keep_best=keep_best)
    checkpoints = stack.enter_context(saved)
    return Prepared(workdir, examples, experiment, beginning, validation, warm_up, buffer, checkpoints)


def _remember_machine(file: Path, console: Console) -> None:
    """Writes on what the run computes now, and says so where it was something else that rounds in other places."""
    now = describe_machine()
    with contextlib.suppress(OSError, UserError):  # the first start, or a file that nobody can read
        if changes := rounding_changes(read_json(file), now):
            console.print(f"the run goes on with {changes}: its figures may differ in their last bits", soft_wrap=True)
    replace_file(file, json.dumps(now, indent=2) + "\n")


def _sha256(weights: Weights) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
