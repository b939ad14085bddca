"""The tasks by the name that a configuration gives them."""

from gfn_jax.tasks.next_sentence import NextSentence

TASKS = {"next_sentence": NextSentence}
