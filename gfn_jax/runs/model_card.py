"""The model card of an exported policy: what it samples from, how it was trained, how to use it."""

import inspect
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

import gfn_jax
from gfn_jax.models.hf_files import is_local
from gfn_jax.objectives import CONTROLS
from gfn_jax.rewards.addition import Addition
from gfn_jax.runs.opened import TrainedRun
from gfn_jax.runtime.json_files import read_rows


def model_card(run: TrainedRun, workdir: Path, base: str, *, is_merged: bool) -> ModelCard:
    """The card for a policy over the frozen model `base`, with the run's validation figures up to the snapshot."""
    config, step = run.experiment.config, run.snapshot.step
    data = ModelCardData(
        # The hub takes its own names alone; random weights have none.
        base_model=None if is_local(base) or config.model.random_init else base,
        library_name="transformers" if is_merged else "peft",
        pipeline_tag="text-generation",
        tags=["gflownet", "gfn_jax", *([] if is_merged else ["lora"])],
    )
    parts = [
        f"# {workdir.resolve().name}",
        f"A policy over `{base}` for the task `{config.task.name}`, trained by gfn_jax {gfn_jax.__version__} for "
        f"{step} steps to "
        + (
            "maximise a reward: a control, not a sampler."
            if config.objective.name in CONTROLS
            else "sample texts in proportion to a reward, instead of maximising it."
        ),
        "## What it samples from",
        _target(run),
        "## How to use it",
        _usage(run, base, is_merged=is_merged),
        "## Figures",
        _figures(workdir, step),
        "## Training",
        _training(run),
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _target(run: TrainedRun) -> str:
    config, reward = run.experiment.config, run.experiment.reward
    weights: dict[str, Any] = {}
    if config.task.name != "random_number":
        weights |= config.reward.model_dump(mode="json", include={"likelihood_weight"})
    if config.task.name == "contradiction":
        weights |= config.reward.model_dump(
            mode="json", include={"contradiction_weight", "original_weight", "answer_weight"}
        )
        weights["judge"] = config.reward.nli.name_or_path
    weights |= config.task.options
    while isinstance(reward, Addition):
        reward = reward.inner
    if config.reward.function.name:
        weights["function"] = config.reward.function.name
    judge = config.reward.sentences
    if judge.weight:
        by = f"log P({judge.label}) by {judge.name_or_path}" if judge.name_or_path else "their form (0 or -1)"
        weights["sentences"] = f"{judge.weight:g} * {by}"
    sampling = config.sampling
    kind = type(reward)
    said = [inspect.getdoc(inspect.getmodule(kind))]
    if not kind.__module__.startswith("gfn_jax."):
        said.append(inspect.getdoc(kind))  # of ours the module says it all
    lines = [
        *filter(None, said),
        "",
        *(f"- {name}: `{value}`" for name, value in weights.items()),
        f"- temperature at the end: `{config.reward.temperature_end}`; a text's probability is proportional to "
        "exp(log R / temperature)",
        f"- a text is {sampling.min_len} to {sampling.max_len} tokens and the terminator `{config.task.terminator}`",
        f"- it continues the prompt `{config.task.prompt_template!r}`, as it stands here: a space at its end counts",
    ]
    return "\n".join(lines)


def _usage(run: TrainedRun, base: str, *, is_merged: bool) -> str:
    config = run.experiment.config
    caveats = ""
    if config.sampling.support_min_p:
        caveats += (
            "\n\nThe policy was trained under a support mask: only tokens of at least "
            f"{config.sampling.support_min_p:g} of the probability of the frozen model's likeliest one. `generate` has "
            "no such mask: **it also samples outside it**, where the policy was never trained."
        )
    if config.model.quantize and not is_merged:
        caveats += (
            f"\n\nThe adapter was trained over kernels quantised to {config.model.quantize}. Over the base model as it "
            "is published **it is another policy**; the exact one is a merged export."
        )
    load = (
        'model = AutoModelForCausalLM.from_pretrained(".")'
        if is_merged
        else f'base = AutoModelForCausalLM.from_pretrained("{base}", dtype="{config.model.dtype}")\n'
        'model = PeftModel.from_pretrained(base, ".")'
    )
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig"
    peft = "" if is_merged else "from peft import PeftModel\n"
    return (
        "The masks of lengths and of banned tokens are part of the policy; `generation_config.json` has them."
        f"{caveats}\n\n"
        f'```python\n{peft}{imports}\n\n{load}\ntokenizer = AutoTokenizer.from_pretrained(".")\n'
        'inputs = tokenizer(["..."], return_tensors="pt")\n'
        'settings = GenerationConfig.from_pretrained(".")\n'
        "print(tokenizer.batch_decode(model.generate(**inputs, generation_config=settings)))\n```"
    )


def _figures(workdir: Path, step: int) -> str:
    """Validation figures before training and at the last validation up to the step, as a table."""
    measured = [row for row in read_rows(workdir / "metrics.jsonl") if "val/elbo" in row and row["step"] <= step]
    if not measured:
        return "The run has no validation figures."
    before, after = measured[0], measured[-1]
    names = [name for name in after if name.startswith("val/")]
    rows = (f"| {name.removeprefix('val/')} | {_number(before.get(name))} | {_number(after[name])} |" for name in names)
    head = f"| on validation prompts | step {before['step']} | step {after['step']} |\n|---|---|---|"
    return "\n".join([head, *rows])


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"


def _training(run: TrainedRun) -> str:
    experiment = run.experiment
    config = experiment.config
    model, lora = config.model, config.model.lora
    lines = [
        f"- checkpoint of step {run.snapshot.step}: {run.reason}",
        f"- objective: `{config.objective.name}`, {config.train.prompts_per_step} prompts with "
        f"{config.sampling.samples_per_prompt} samples each in a step, learning rate {config.train.learning_rate:g}",
        f"- LoRA of rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(f'`{name}`' for name in lora.targets)}",
        f"- frozen weights in {model.dtype}{f', layers quantised to {model.quantize}' if model.quantize else ''}, "
        f"sha256 `{experiment.frozen_sha256}`",
        f"- seed {config.seed}",
        *([f"- it began from the adapter `{lora.init_from}`"] if lora.init_from else []),
    ]
    return "\n".join(lines)
