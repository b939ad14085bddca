"""Models by the names of a Hugging Face hub, which is one of the test's own: policy, judge and adapter."""

import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import save_model
from helpers import MINIATURE, ROOT, config
from hub_server import Hub, serving
from huggingface_hub import close_session, constants
from transformers import GPT2Config

from gfn_jax.models import loading, peft_adapters
from gfn_jax.models.hf_architecture import read_architecture
from gfn_jax.models.hf_files import (
    TOKENIZER_FILES,
    classifier_sha256,
    find_classifier,
    find_directory,
    find_model,
    weight_files,
)
from gfn_jax.models.layout import WHEREVER
from gfn_jax.models.parts import ModelStructure
from gfn_jax.rewards.classifier import Classifier
from gfn_jax.runtime.errors import UserError
from gfn_jax.text.tokenizer import Tokenizer
from gfn_jax.types import LoRAConfig

KEY = "model.name_or_path"
WEIGHTS, CHUNK = "model.safetensors", 64
PAIRS = [("Nulon keeps a hen.", "Nulon has a cow."), ("Ada lives in Rome.", "Ada lives in Rome.")]


def adapter_of(structure):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), structure.abstract_adapter)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    place = tmp_path_factory.mktemp("published")
    structure = ModelStructure(
        read_architecture(MINIATURE / "gpt2"), LoRAConfig(2, 4.0, ("c_attn",)), dtype=jnp.float32, remat=False
    )
    (place / "adapter").mkdir()
    peft_adapters.save(place / "adapter", adapter_of(structure), structure, "some/policy")
    save_model(place / "tiny", GPT2Config(vocab_size=17, n_positions=7, n_embd=6, n_head=2, n_layer=2))
    policy, judge = MINIATURE / "gpt2", MINIATURE / "nli"
    return {"some/policy": policy, "some/judge": judge, "some/adapter": place / "adapter", "some/tiny": place / "tiny"}


@pytest.fixture
def hub(directories, tmp_path, monkeypatch):
    """A hub that this process asks, with an empty cache; the client's pauses between its tries are none."""
    hub = Hub(directories)
    with serving(hub):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
        monkeypatch.setattr(time, "sleep", lambda _: None)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub
    close_session()


@pytest.fixture
def go_offline(hub, monkeypatch):
    """Whatever is still asked of the hub fails, and shows."""

    def go():
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.models.clear()
        hub.asked.clear()

    yield go
    assert not hub.asked


def is_whole(directory, source):
    """Whether the weights are those that were published."""
    return [file.read_bytes() for file in weight_files(directory)] == [(source / WEIGHTS).read_bytes()]


def test_a_policy_comes_from_the_hub_and_then_from_the_cache(hub, go_offline, directories):
    texts = ["Mara walked to the market."]
    for begin in (lambda: None, go_offline):
        begin()
        directory = find_model("some/policy", KEY)
        assert is_whole(directory, directories["some/policy"])
        assert read_architecture(directory) == read_architecture(directories["some/policy"])
        tokenizer = Tokenizer(find_directory("some/policy", KEY, TOKENIZER_FILES))
        assert tokenizer.encode_prompts(texts) == Tokenizer(directories["some/policy"]).encode_prompts(texts)


def test_a_judge_comes_from_the_hub_and_then_from_the_cache(hub, go_offline, directories):
    def judged(name):
        classifier = Classifier(str(name), "contradict", batch_size=8, max_length=64)
        return classifier.log_probabilities_of_pairs(PAIRS)

    expected = judged(directories["some/judge"])
    assert judged("some/judge") == expected
    go_offline()
    assert judged("some/judge") == expected


def test_a_new_commit_of_a_judge_is_another_judge_and_a_new_readme_is_none(hub):
    def identity():
        return classifier_sha256(find_classifier("some/judge", KEY))

    files, first = hub.models["some/judge"], identity()
    files["README.md"] = b"..."
    assert identity() == first
    files[WEIGHTS] = files[WEIGHTS][:-1] + bytes([files[WEIGHTS][-1] ^ 1])
    assert identity() != first


def test_an_adapter_comes_from_the_hub_and_then_from_the_cache(hub, go_offline):
    settings = config(
        data__path="-",
        model__name_or_path="some/policy",
        model__lora__init_from="some/adapter",
        model__lora__rank=2,
        model__lora__alpha=4.0,
        model__lora__targets=("c_attn",),
    )
    for begin in (lambda: None, go_offline):
        begin()
        found = loading.find_model(settings.model, WHEREVER)
        jax.tree.map(np.testing.assert_array_equal, found.adapter, adapter_of(found.structure))
        assert not found.remark


def test_what_is_cut_off_once_is_gone_on_with_where_it_ended(hub, directories):
    hub.cut[WEIGHTS] = (3 * CHUNK, 1)
    assert is_whole(find_model("some/tiny", KEY), directories["some/tiny"])
    assert hub.fetched("large/") == ["", f"bytes={3 * CHUNK}-"]


def test_what_is_cut_off_for_good_is_one_line_and_is_whole_at_the_next_try(hub, directories, monkeypatch):
    """Neither of them, nor a start without a network in between, takes what there is for the whole."""
    hub.cut[WEIGHTS] = (3 * CHUNK, 1000)
    with pytest.raises(UserError, match=r"^model\.name_or_path: the download of 'some/tiny' .* failed") as error:
        find_model("some/tiny", KEY)
    assert "\n" not in str(error.value)
    with monkeypatch.context() as away:
        away.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match=r"^model\.name_or_path: 'some/tiny' .*IncompleteSnapshotError"):
            find_model("some/tiny", KEY)
    hub.cut.clear()
    assert is_whole(find_model("some/tiny", KEY), directories["some/tiny"])
    assert hub.fetched("config.json") == [""]  # which was whole at the first try


def test_a_gated_model_is_for_those_who_accepted_its_terms(hub, directories, monkeypatch):
    hub.gated.add("some/tiny")
    for token in (None, "hf_somebody_else"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError, match=r"'some/tiny' is for those who accepted its terms .* `hf auth login`"):
            find_model("some/tiny", KEY)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert is_whole(find_model("some/tiny", KEY), directories["some/tiny"])


def test_a_renamed_model_is_found_by_its_old_name_too(hub, go_offline, directories):
    hub.renamed["old/tiny"] = "some/tiny"
    for begin in (lambda: None, go_offline):
        begin()
        assert is_whole(find_model("old/tiny", KEY), directories["some/tiny"])


def test_a_name_that_the_hub_does_not_know_is_one_line(hub):
    with pytest.raises(UserError, match=r"^model\.name_or_path: 'some/nothing' is neither") as error:
        find_model("some/nothing", KEY)
    assert "\n" not in str(error.value)


def test_a_cache_that_cannot_be_written_is_one_line(hub, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        UserError, match=r"^model\.name_or_path: 'some/tiny' .* cannot be kept in .*/cache: \w+"
    ) as error:
        find_model("some/tiny", KEY)
    assert "\n" not in str(error.value)


def test_the_hub_s_variables_are_those_of_its_own_library(hub, tmp_path, directories):
    hub.gated.add("some/tiny")
    find = f"from gfn_jax.models.hf_files import find_model; print(find_model('some/tiny', {KEY!r}))"
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": hub.token}
    for is_offline in ("0", "1"):
        environment["HF_HUB_OFFLINE"] = is_offline
        command = [sys.executable, "-c", find]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"{tmp_path}/hub/models--some--tiny/snapshots/")
        hub.models.clear()
