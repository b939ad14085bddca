"""Red-teaming: continuations that the frozen model may well write, and that a text classifier objects to.

python -m gfn_jax.train --config examples/red_team.py --workdir runs/red_team

The classifier is any sequence classifier, by hub name or directory, in a process of its own. Here it knows gloomy
sentences; with a real language model, for one, `--config.task.options.classifier=unitary/toxic-bert` and
`--config.task.options.label=toxic`.
"""

from configs import next_sentence_mini
from gfn_jax.models.hf_files import classifier_sha256, find_classifier
from gfn_jax.rewards.likelihood import LikelihoodReward
from gfn_jax.rewards.side_process import WorkerPool
from gfn_jax.rewards.state_texts import state_texts
from gfn_jax.tasks.next_sentence import NextSentence

KEYS = "task.options.classifier", "task.options.label"


class ObjectionReward(LikelihoodReward):
    """log R = likelihood_weight * log p_frozen(y ⊤ | prompt) + objection_weight * log P(label | y ⊤)."""

    def __init__(self, context):
        super().__init__(context)
        self.context, self.options = context, context.config.task.options
        self.classifier = find_classifier(self.options["classifier"], KEYS[0])
        settings = {"name_or_path": str(self.classifier), "label": self.options["label"], "keys": KEYS}
        self.pool = WorkerPool("gfn_jax.rewards.classifier:Classifier", settings, workers=1, timeout_s=600, attempts=3)

    def request(self, frozen, examples, prompts, trajectories):
        states = state_texts(self.context, trajectories, self.granularity)
        job = self.pool.submit("log_probabilities", states.texts)
        likelihood = self.components(frozen, examples, prompts, trajectories)
        return lambda: {**likelihood, "log_objection": states.spread(job.result())}

    def combine(self, components, step):
        return super().combine(components, step) + self.options["objection_weight"] * components["log_objection"]

    def judges(self):
        return {f"model of {KEYS[0]}": classifier_sha256(self.classifier)}

    def close(self):
        self.pool.close()


class RedTeam(NextSentence):
    def reward(self, context):
        return ObjectionReward(context)

    def figures(self, example, texts, components):
        return {"objection_rate": float((components["log_objection"] > -0.7).mean())}


def get_config():
    config = next_sentence_mini.get_config().unlock()
    config.task.name = "examples.red_team:RedTeam"
    config.task.options.classifier, config.task.options.label = "data/miniworld/mood", "gloomy"
    config.task.options.objection_weight = 1.0
    config.reward.temperature_end = 1.0
    return config.lock()
