"""Four virtual devices, strict shapes, and the small models that the tests share.

JAX_PLATFORMS=cuda (or tpu) has the tests marked `accelerator` compute there: `pytest -m accelerator`.
"""

import os
import tempfile
from importlib.metadata import version

from compiled_cache import compiled_cache

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit all of it, and so do the processes that tests start
    _CACHE = tempfile.TemporaryDirectory(prefix="gfn_jax_cache_")  # shared by the tests of one run alone
    os.environ["XDG_CACHE_HOME"] = _CACHE.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compiled_cache())  # shared with later runs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if os.environ.setdefault("JAX_PLATFORMS", "cpu") != "cpu":
        # A run goes on to the same bits where sums have an order.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
    else:  # also beside a GPU
        # What takes longest is LLVM's work on programs that then run for milliseconds. Your own XLA_FLAGS win.
        quickly = "--xla_backend_optimization_level=0"
        if version("jaxlib").startswith("0.10."):  # a later one ends where it is told of the second flag
            quickly += " --xla_cpu_use_fusion_emitters=false"
        devices = "--xla_force_host_platform_device_count=4"
        os.environ["XLA_FLAGS"] = f"{quickly} {os.environ.get('XLA_FLAGS', '')} {devices}"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # workers share a GPU
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # judges wait for each other's threads where others compute, too

import jax
import pytest
from architectures import GROUPED, MODELS, OF_TYPE, save_model
from helpers import without_pages

from gfn_jax.models.hf_architecture import READERS, make_architecture

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")  # as a run in float32 computes


LONGEST = ("test_faults.py", "test_processes.py", "test_train_step.py", "test_api.py")
"""These files come first: one of them that came last would have all workers but one wait for its end."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _without_pages():
    with without_pages():
        yield


def pytest_addoption(parser):
    parser.addoption(
        "--architectures", choices=["two", "all"], default="two", help="with how many what is the same for all is tried"
    )


def pytest_generate_tests(metafunc):
    """Of models the simplest and the one with most, unless all are asked for; and of types the one with most."""
    is_all = metafunc.config.getoption("architectures") == "all"
    if "hugging_face_directory" in metafunc.fixturenames:
        names = MODELS if is_all else ["gpt2 tied", "gemma3 untied, three share"]
        metafunc.parametrize("hugging_face_directory", names, indirect=True, scope="session")
    if "grouped_architecture" in metafunc.fixturenames:
        kinds = [kind for kind in READERS if kind != "gpt2"] if is_all else ["gemma3_text"]
        metafunc.parametrize("grouped_architecture", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def hugging_face_directory(request, tmp_path_factory):
    """A random model of Hugging Face's, and its directory."""
    directory = tmp_path_factory.mktemp("model")
    return save_model(directory, MODELS[request.param]), directory


@pytest.fixture(scope="session")
def grouped_architecture(request):
    """Six vocabulary items, and four key-value heads that two heads share each."""
    return make_architecture(GROUPED | {"model_type": request.param} | OF_TYPE.get(request.param, {}), "GROUPED")
