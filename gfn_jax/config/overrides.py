"""Keys of a finished run that may be others where it is opened again: where and how fast it is computed, not what."""

from collections.abc import Sequence

from gfn_jax.config.reading import OF_THE_MACHINE, WHERE_CONTENT_IS, known_keys, nearest_key, parse_config
from gfn_jax.config.schema import Config
from gfn_jax.runtime.errors import UserError

SAFE_TO_OVERRIDE = (
    *("mesh.data", "mesh.model", "mesh.fsdp", "eval.prompts_per_batch"),
    *OF_THE_MACHINE,
    *WHERE_CONTENT_IS,
)


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration with each KEY=VALUE; raises `UserError` where one is none, or not of a key that may change."""
    raw = config.model_dump()
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"--override {override}: write it as KEY=VALUE, such as mesh.data=4")
        if key not in SAFE_TO_OVERRIDE:
            reason = "is the run's own" if key in known_keys() else f"is unknown{nearest_key(key)}"
            raise UserError(
                f"--override {override}: {key} {reason}; these may be overridden: {', '.join(SAFE_TO_OVERRIDE)}"
            )
        *sections, name = key.split(".")
        section = raw
        for each in sections:
            section = section[each]
        section[name] = value
    try:
        return parse_config(raw)
    except UserError as error:
        raise UserError(f"--override: {error}") from error
