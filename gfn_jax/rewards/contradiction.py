"""How well a question draws an answer out of the frozen model that contradicts a fact.

For every terminable prefix q of a continuation, as a question:

    log R = contradiction_weight * log P_NLI(contradiction | fact, answer to q)
          + likelihood_weight    * log p_frozen(q | prompt)
          + answer_weight        * log p_frozen(answer | answer prompt)

before tempering. The answer is the frozen model's own, greedy and so a function of the question's text.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from gfn_jax.config import Answers
from gfn_jax.models.parts import Weights
from gfn_jax.rewards.answering import Answer, Answerer
from gfn_jax.rewards.judging import Judgements, JudgePool
from gfn_jax.rewards.likelihood import make_log_likelihood
from gfn_jax.rewards.protocol import Call, Components, Reward, RewardContext
from gfn_jax.rewards.recent import Recent
from gfn_jax.rewards.state_texts import state_texts
from gfn_jax.text.templates import Template
from gfn_jax.types import Prompts, Trajectories

NLI_MODEL = "gfn_jax.rewards.nli:NLIModel"
NLI_KEY = "reward.nli.name_or_path"


class Claim(Protocol):
    """What an example must have: whom it is about, and the fact that answers should contradict."""

    @property
    def subject(self) -> str: ...

    @property
    def edit_fact(self) -> str: ...


def answer_template(answers: Answers) -> Template:
    """The prompt that asks the frozen model; raises `UserError` where it is none."""
    return Template("reward.answers.template", answers.template, required=["question"], optional=["subject"])


class ContradictionReward(Reward):
    """The reward above; no question is answered, and no answer judged, twice while the caches last."""

    def __init__(self, context: RewardContext, pool: JudgePool, answer_prompt: Template):
        """Takes over the pool, whose workers are `NLIModel`s.

        Raises `UserError` where a question and its answer may not fit into the model's context.
        """
        config = context.config.reward
        self.granularity = config.granularity
        self._config, self._context, self._pool = config, context, pool
        self._answer_prompt = answer_prompt
        bare = len(context.tokenizer.encode_prompt(answer_prompt.fill(question="", subject="")))
        self._answerer = Answerer(
            config.answers,
            context.own_structure,
            context.tokenizer,
            context.config.data.prompt_buckets,
            context.rows.local(),
            bare=bare,
            room=bare + context.config.sampling.max_len + 1,
        )
        self._log_likelihood = make_log_likelihood(context)
        self._answers: Recent[str, Answer] = Recent(config.cache_mb)
        self._judgements = Judgements(pool, "log_contradiction", config.nli.batch_size, config.cache_mb)

    def request(
        self, frozen: Weights, examples: Sequence[Claim], prompts: Prompts, trajectories: Trajectories
    ) -> Callable[[], Components]:
        context = self._context
        with context.stopwatch.measure("likelihood"):
            log_likelihood_NxT = jax.block_until_ready(self._log_likelihood(frozen, prompts, trajectories))
        texts = state_texts(context, trajectories, self.granularity)
        per_prompt = texts.shape[0] // len(examples)
        claims = [examples[row // per_prompt] for row in texts.rows_M]
        answers = self._answer(frozen, claims, texts.texts)
        judged = self._judge(claims, answers)

        def components() -> Components:
            return {
                "log_contradiction": texts.spread(judged()),
                "log_likelihood": log_likelihood_NxT,
                "log_answer": texts.spread([answer.log_p for answer in answers]),
                "log_answer_per_token": texts.spread([answer.log_p_per_token for answer in answers]),
            }

        return components

    def combine(self, components: Components, step: jax.Array) -> jax.Array:
        """The weighted sum; until `hybrid.steps` the likelihood, less a penalty where nothing is contradicted."""
        config, hybrid = self._config, self._config.hybrid
        log_contradiction, log_likelihood = components["log_contradiction"], components["log_likelihood"]
        log_r = (
            config.contradiction_weight * log_contradiction
            + config.likelihood_weight * log_likelihood
            + config.answer_weight * components["log_answer"]
        )
        is_poor = components["log_answer_per_token"] < config.answers.threshold
        log_r = log_r - jnp.where(is_poor, config.answers.penalty, 0)
        is_missed = jnp.exp(log_contradiction) < hybrid.threshold
        penalised = config.likelihood_weight * log_likelihood - jnp.where(is_missed, hybrid.penalty, 0)
        return jnp.where(step < hybrid.steps, penalised, log_r)

    def to_compile(self, frozen: Weights, prompts: Prompts, trajectories: Trajectories) -> Sequence[Call]:
        own = self._context.rows.on_this_process(frozen)
        return [Call(self._log_likelihood, (frozen, prompts, trajectories)), *self._answerer.to_compile(own)]

    def check(self, examples: Sequence[Claim]) -> None:
        self._pool.submit("check_premises", [claim.edit_fact for claim in examples]).result()

    def explain(self, frozen: Weights, examples: Sequence[Claim], texts: Sequence[str]) -> list[dict[str, Any]]:
        """The frozen model's answer to each question, and P(contradiction)."""
        answers = self._answer(frozen, examples, [text.strip() for text in texts])
        judged = self._judge(examples, answers)
        return [
            {"answer": answer.text, "p_contradiction": math.exp(log_p)}
            for answer, log_p in zip(answers, judged(), strict=True)
        ]

    def judges(self) -> Mapping[str, str]:
        return {f"model of {NLI_KEY}": self._pool.sha256}

    def close(self) -> None:
        self._pool.close()

    def _answer(self, frozen: Weights, claims: Sequence[Claim], questions: Sequence[str]) -> list[Answer]:
        with self._context.stopwatch.measure("answering"):
            prompts = [
                self._answer_prompt.fill(question=question, subject=claim.subject)
                for claim, question in zip(claims, questions, strict=True)
            ]
            answers = self._answers.find(prompts)
            unanswered = sorted(set(prompts) - answers.keys())
            # Each process answers its own questions, as many as they are: on its own devices.
            own = self._context.rows.on_this_process(frozen)
            fresh = dict(zip(unanswered, self._answerer.answer(own, unanswered), strict=True))
            self._answers.keep(fresh)
            answers |= fresh
            return [answers[prompt] for prompt in prompts]

    def _judge(self, claims: Sequence[Claim], answers: Sequence[Answer]) -> Callable[[], list[float]]:
        """Sends (fact, answer)s to the workers; calling the result waits for what they say."""
        pairs = [(claim.edit_fact, answer.text) for claim, answer in zip(claims, answers, strict=True)]
        waiting = self._judgements.request(pairs)

        def result() -> list[float]:
            with self._context.stopwatch.measure("judging"):
                return waiting()

        return result
