"""How well a question draws an answer out of the frozen model that contradicts a fact.

For every terminable prefix q of a continuation, as a question:

    log R = contradiction_weight * log P_NLI(contradiction | edited fact, answer to q)
          + original_weight      * log P_NLI(no contradiction | original fact, answer to q)
          + likelihood_weight    * log p_frozen(q | prompt)
          + answer_weight        * log p_frozen(answer | answer prompt)

before tempering. The answer is the frozen model's own, greedy and so a function of the question's text. The term of
the original fact keeps questions to the point: an NLI model takes many a statement about something else for a
contradiction, and that one contradicts either fact.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gfn_jax.config.schema import Answers
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
    """What an example must have: whom it is about, a fact that answers should contradict, and one they should not.

    Where `original_fact` is empty there is none, and nothing contradicts it.
    """

    @property
    def subject(self) -> str: ...

    @property
    def edit_fact(self) -> str: ...

    @property
    def original_fact(self) -> str: ...


def answer_template(answers: Answers) -> Template:
    """The prompt that asks the frozen model; raises `UserError` where it is none."""
    return Template("reward.answers.template", answers.template, required=["question"], optional=["subject"])


class ContradictionReward(Reward):
    """The reward above; no question is answered, and no answer judged, twice while the caches last."""

    gives_log_likelihood = True

    def __init__(self, context: RewardContext, pool: JudgePool, answer_prompt: Template):
        """Takes over the pool, whose workers are `NLIModel`s.

        Raises `UserError` where a question and its answer may not fit into the model's context.
        """
        config = context.settings
        self.granularity = config.granularity
        # Without a weight the original fact is a figure alone, and judged where texts end: see `request`.
        self.version = 3 if config.original_weight else 2
        self._config, self._context, self._pool = config, context, pool
        self._answer_prompt = answer_prompt
        bare = len(context.tokenizer.encode_prompt(answer_prompt.fill(question="", subject="")))
        shown = answer_prompt.beginning
        beginning = context.tokenizer.encode_prompt(shown) if shown else []  # as prompts are, with what starts a text
        self._answerer = Answerer(
            config.answers,
            context.own_structure,
            context.tokenizer,
            context.prompt_buckets,
            context.rows.local(),
            beginning=beginning,
            room=bare + context.max_len + 1,
        )
        self._log_likelihood = make_log_likelihood(context)
        self._answers: Recent[str, Answer] = Recent(config.cache_mb)
        self._judgements = Judgements[tuple[str, str]](
            pool, "log_contradiction", config.nli.batch_size, config.cache_mb
        )

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
        judged = self._judge([claim.edit_fact for claim in claims], answers)
        of_original = np.ones(len(answers), bool) if self._config.original_weight else texts.is_last_M
        originals = [
            claim.original_fact if is_asked else "" for claim, is_asked in zip(claims, of_original, strict=True)
        ]
        judged_originals = self._judge(originals, answers)

        def components() -> Components:
            return {
                "log_contradiction": texts.spread([log_p for log_p, _ in judged()]),
                "log_original": texts.spread([log_not_p for _, log_not_p in judged_originals()]),
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
            + config.original_weight * components["log_original"]
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

    def request_check(self, examples: Sequence[Claim]) -> Callable[[], None]:
        premises = [fact for claim in examples for fact in (claim.edit_fact, claim.original_fact)]
        return self._pool.submit("check_premises", premises).result

    def explain(self, frozen: Weights, examples: Sequence[Claim], texts: Sequence[str]) -> list[dict[str, Any]]:
        """The frozen model's answer to each question, and P(contradiction) of the edited fact and of the original."""
        answers = self._answer(frozen, examples, [text.strip() for text in texts])
        edited = self._judge([claim.edit_fact for claim in examples], answers)
        original = self._judge([claim.original_fact for claim in examples], answers)
        return [
            {
                "answer": answer.text,
                "p_contradiction": math.exp(of_edited),
                "p_contradicts_original": math.exp(of_original),
            }
            for answer, (of_edited, _), (of_original, _) in zip(answers, edited(), original(), strict=True)
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

    def _judge(self, facts: Sequence[str], answers: Sequence[Answer]) -> Callable[[], list[tuple[float, float]]]:
        """Sends (fact, answer)s to the workers; calling the result waits for what they say.

        That is log P(contradiction) and log P(no contradiction) of each; nothing contradicts a fact that is empty.
        """
        pairs = [(fact, answer.text) for fact, answer in zip(facts, answers, strict=True)]
        waiting = self._judgements.request([pair for pair in pairs if pair[0]])

        def result() -> list[tuple[float, float]]:
            with self._context.stopwatch.measure("judging"):
                judged = iter(waiting())
            return [next(judged) if fact else (-math.inf, 0.0) for fact, _ in pairs]

        return result
