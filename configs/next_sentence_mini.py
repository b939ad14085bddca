"""Next-sentence continuation in the miniature world: minutes on two CPU cores."""

from gfn_jax.config.base import base


def get_config():
    config = base()
    config.data.path = "data/miniworld/prompts.txt"
    config.data.prompt_buckets = (16, 32, 48)
    config.model.name_or_path = "data/miniworld/gpt2"
    config.sampling.max_len = 16
    config.reward.temperature_end = 0.7
    config.reward.temperature_horizon = 60
    config.train.steps = config.train.decay_steps = 150
    config.train.learning_rate = 3e-3
    config.train.eval_every = 25
    config.train.checkpoint_every = 50
    return config.lock()
