"""The tasks by the name that a configuration gives them."""

from gfn_jax.config.schema import Config
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.imports import named_object
from gfn_jax.tasks.contradiction import Contradiction
from gfn_jax.tasks.next_sentence import NextSentence
from gfn_jax.tasks.random_number import RandomNumber
from gfn_jax.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "contradiction": Contradiction,
    "next_sentence": NextSentence,
    "random_number": RandomNumber,
}


def check_is_own(config: Config, source: object) -> None:
    """Raises `UserError` where a configuration from this source names code from elsewhere: a task, or a function."""
    named = {"task": config.task.name, "reward function": config.reward.function.name}
    for what, name in named.items():
        module, colon, _ = name.partition(":")
        if name not in TASKS and colon and module != "__main__":  # which runs already
            raise UserError(
                f"{source} names the {what} {name!r}, and reading the run would import the module {module!r}, "
                "which runs its code: if you trust whoever made both, add --trust_code"
            )


def make_task(config: Config) -> Task:
    """The task that `task.name` means: one of `TASKS`, or a class of the user's own as "module:Class"."""
    name = config.task.name
    if name in TASKS:
        return TASKS[name](config)
    if ":" not in name:
        raise UserError(
            f"task.name: there is no task {name!r}; there are {', '.join(sorted(TASKS))}, "
            'and classes of your own as "module:Class"'
        )
    task = named_object(name, "task.name")
    if not (isinstance(task, type) and issubclass(task, Task)):
        raise UserError(f"task.name: {name!r} is not a subclass of gfn_jax.tasks.task.Task")
    return task(config)
