"""Next-sentence continuation with gpt2-xl on OpenWebText prompts, as in Hu et al. 2024.

The paper sweeps the end temperature over 0.8 to 0.95: `--config.reward.temperature_end=0.9`.
`data.path` is what `data/openwebtext/generate_prompts.py` writes: prompts, one a line. Several GPUs
share the prompts; where the weights do not fit into each, `--config.mesh.fsdp=True`.
"""

from gfn_jax.config.base import base


def get_config():
    config = base()
    config.data.path = "data/openwebtext/prompts.txt"
    config.model.name_or_path = "gpt2-xl"
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.model.lora.rank = 64
    config.model.lora.alpha = 16.0
    config.sampling.samples_per_prompt = 8
    config.sampling.min_len = 1
    config.sampling.max_len = 30
    config.sampling.temperature_low = 0.5
    config.sampling.temperature_high = 2.0
    config.sampling.temperature_prob = 0.666
    config.objective.subtb_lambda = 1.0
    config.reward.temperature_start = 1.0
    config.reward.temperature_end = 0.8
    config.reward.temperature_horizon = 750
    config.replay.fraction = 0.25
    config.train.steps = 1_000
    config.train.prompts_per_step = 32
    config.train.microbatch_prompts = 32  # on TPUs 16 are a little quicker
    config.train.learning_rate = 1e-4
    return config.lock()
