"""A random integer, drawn uniformly between 0 and 100, by SmolLM2-135M: Hu et al. 2024, section 2.

`data/fetch.py smollm2` makes the model; `launch/real.sh` runs both. Another target, and the control that
maximises log R instead of sampling in proportion to R:

    --config.task.options.target=poisson --config.task.options.low=20 --config.task.options.high=60
    --config.objective.name=reinforce --config.sampling.temperature_prob=0.0 --config.replay.fraction=0.0
"""

from ml_collections import ConfigDict

from gfn_jax.config.base import base


def get_config():
    config = base()
    config.task.name = "random_number"
    # A digit brings no space of its own: so the prompt ends in one.
    config.task.prompt_template = "The following is a random integer drawn uniformly between 0 and 100: "
    config.task.options.target = "uniform"  # or poisson, or table
    config.task.options.low, config.task.options.high = 0, 100  # uniform, poisson: the first and the last number
    config.task.options.mean = 40.0  # poisson: before its tails beyond these are cut off
    config.task.options.table = ConfigDict()  # table: the weight of each number, such as {"7": 2.0, "13": 1.0}
    config.task.options.invalid_log_r = -16.0  # of digits that are no number of the target, which sums to one
    config.data.prompt_buckets = (24,)
    config.model.name_or_path = "data/smollm2/model"
    config.model.lora.rank = 16
    config.model.lora.alpha = 32.0
    config.sampling.samples_per_prompt = 64
    config.sampling.max_len = 3
    config.sampling.temperature_low = config.sampling.temperature_high = 2.0
    config.sampling.temperature_prob = 0.5
    config.replay.fraction = 0.25  # so that a number which is drawn once is not forgotten: "100" is one in a thousand
    config.replay.capacity = 128
    config.objective.name = "pooled"
    config.reward.temperature_end = 1.0
    config.reward.temperature_horizon = 0
    config.train.steps = config.train.decay_steps = 120
    config.train.prompts_per_step = config.train.microbatch_prompts = 1
    config.train.learning_rate = 1e-3
    config.train.eval_every = 20
    config.train.checkpoint_every = 60
    config.eval.samples_per_prompt = 16
    config.eval.prompts_per_batch = 1
    config.eval.probes = 1
    return config.lock()
