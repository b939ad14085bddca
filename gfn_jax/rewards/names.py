"""Which names a reward's components, and a task's figures, may not have: those that a run's own figures have."""

from collections.abc import Iterable

from gfn_jax.runtime.errors import UserError

_OF_STEPS = (
    "loss log_ratio_var grad_norm learning_rate temperature skipped is_bad_N bad_rows seconds trajectories_per_s"
)
_OF_TEXTS = "log_r length diversity distinct elbo"
_OF_VALIDATION = "mixture_log_ratio_var mixture_log_ratio_var_median kl total_variation invalid_mass"
_OF_COMPARISON = (
    "own_log_ratio_var log_likelihood_best log_r_best distinct_bigrams self_bleu sentences log_z effective_samples "
    "embedding_distance acceptable"
)
_OF_SAMPLES = "step prompt continuation log_pf tokens log_ratio"

RESERVED = frozenset(" ".join((_OF_STEPS, _OF_TEXTS, _OF_VALIDATION, _OF_COMPARISON, _OF_SAMPLES)).split())
"""What files and tables of a run call what they hold beside components: `log_likelihood` is the reward's to give."""


def check_names(what: str, names: Iterable[str], taken: Iterable[str] = ()) -> None:
    """Raises `UserError` where one of these names is a figure's of the run, or is `taken`; `what` has them."""
    if wrong := sorted(RESERVED.union(taken).intersection(names)):
        raise UserError(f"{what} has the name {wrong[0]!r}, which is another figure's: give it a name of its own")
