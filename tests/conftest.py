"""Four virtual devices, strict shapes, and the small models that the tests share."""

import os
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit all of it
    _CACHE = tempfile.TemporaryDirectory(prefix="gfn_jax_cache_")  # shared by the tests of one run alone
    os.environ["XDG_CACHE_HOME"] = _CACHE.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_CACHE.name}/compiled"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

import jax
import pytest
from helpers import save_gpt2

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", params=["tied", "untied"])
def hugging_face_directory(request, tmp_path_factory):
    """A random GPT-2 of Hugging Face's, with prime dimensions, and its directory."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "tied":
        return save_gpt2(
            directory, vocab_size=131, n_positions=29, n_embd=21, n_head=3, n_layer=2, n_inner=53
        ), directory
    return (
        save_gpt2(directory, vocab_size=257, n_positions=31, n_embd=55, n_head=5, n_layer=3, tie_word_embeddings=False),
        directory,
    )
