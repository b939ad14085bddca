"""Whatever is wrong with an input ends in one line: changed at random, a few of each kind, and as it once did not."""

import json

import fuzz
import fuzz_targets
import pytest

from gfn_jax.models import gguf_conversion, peft_adapters
from gfn_jax.models.hf_architecture import make_architecture
from gfn_jax.models.hf_files import weight_files
from gfn_jax.runtime.errors import UserError
from gfn_jax.runtime.json_files import replace_file
from gfn_jax.text.tokenizer import Tokenizer

NEED_A_RUN = ("report", "checkpoint")
LLAMA, QWEN, GEMMA = (
    next(raw for raw in fuzz_targets.ARCHITECTURES if raw["model_type"] == kind)
    for kind in ("llama", "qwen2", "gemma3_text")
)


@pytest.mark.parametrize("kind", [kind for kind in fuzz_targets.KINDS if kind not in NEED_A_RUN])
def test_changed_inputs_end_in_a_result_or_in_one_line(tmp_path, kind):
    outcomes = fuzz.fuzz(fuzz_targets.KINDS[kind](tmp_path), kind, seed=1, inputs=40)
    assert not outcomes.unexpected
    assert outcomes.results
    assert outcomes.messages


@pytest.mark.parametrize(
    ("raw", "change", "message"),
    [
        (LLAMA, {"model_type": {}}, "model_type is {}"),
        (LLAMA, {"num_hidden_layers": 2**20}, "num_hidden_layers is 1048576, and 10000 are the most"),
        (LLAMA, {"head_dim": "4"}, "head_dim is '4'"),
        (LLAMA, {"hidden_size": True}, "hidden_size is True"),
        (LLAMA, {"head_dim": 2**64}, "head_dim is 18446744073709551616: 16777216 is the most"),
        (LLAMA, {"rope_parameters": ["x"]}, r"rope_parameters is \['x'\], and must be an object"),
        (LLAMA, {"rope_parameters": {"rope_type": []}}, r"rope_type is \[\]"),
        (LLAMA, {"rope_theta": [1], "rope_parameters": {}}, "rope_parameters.theta"),
        (LLAMA, {"rope_theta": 0, "rope_parameters": {}}, "rope_parameters.theta"),
        (LLAMA, {"layer_types": 3}, "layer_types is 3, and must be a list of names"),
        (LLAMA, {"layer_types": [[], []]}, "layer_types is .* and must be a list of names"),
        (QWEN, {"max_window_layers": None}, "max_window_layers is None"),
        (QWEN, {"sliding_window": "5"}, "sliding_window is '5'"),
        (GEMMA, {"sliding_window": {}}, "sliding_window is {}"),
        (GEMMA, {"layer_types": None, "sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
    ],
)
def test_a_config_json_of_wrong_types_is_named(raw, change, message):
    with pytest.raises(UserError, match=message) as error:
        make_architecture(raw | change, "config.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", [3.5, ["</s>"], {"content": None}, "\ud800"])
def test_an_end_of_text_that_is_no_text_is_named(tmp_path, end):
    files = fuzz_targets.of_bytes() | {"tokenizer_config.json": json.dumps({"eos_token": end}).encode()}
    with pytest.raises(UserError, match=r"tokenizer_config\.json: eos_token is .*, and must be a text"):
        Tokenizer(fuzz_targets.written(tmp_path / "tokenizer", files))


def test_merges_of_other_items_and_ids_beyond_any_vocabulary_are_refused(tmp_path):
    files = fuzz_targets.of_bytes_in_two_files()
    files["merges.txt"] += b"no item\n"
    with pytest.raises(UserError, match=r"merges\.txt cannot be read as a tokenizer"):
        Tokenizer(fuzz_targets.written(tmp_path / "tokenizer", files))
    content = json.loads(fuzz_targets.of_bytes()["tokenizer.json"])
    content["model"]["vocab"]["far away"] = 2**31
    files = {"tokenizer.json": json.dumps(content).encode()}
    with pytest.raises(UserError, match=r"its tokenizer has the id 2147483648"):
        Tokenizer(fuzz_targets.written(tmp_path / "tokenizer", files))


def test_what_a_tokenizer_puts_around_texts_has_names_that_stand_for_something(tmp_path):
    content = json.loads(fuzz_targets.of_bytes()["tokenizer.json"])
    template = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "nobody", "type_id": 0}}]
    around = {"type": "TemplateProcessing", "single": template, "pair": [], "special_tokens": {}}
    content["post_processor"] = {"type": "Sequence", "processors": [around]}
    files = {"tokenizer.json": json.dumps(content).encode()}
    with pytest.raises(UserError, match="its tokenizer puts 'nobody' around texts, and does not say what it is"):
        Tokenizer(fuzz_targets.written(tmp_path / "tokenizer", files))


def test_a_gguf_file_that_speaks_of_more_than_it_holds_is_refused_at_once(tmp_path):
    whole = fuzz_targets.whole_gguf(tmp_path / "whole.gguf")
    key = b"tokenizer.ggml.merges"
    length = whole.index(key) + len(key) + 4 + 4  # behind the types of the value, an array, and of its items
    assert whole[length : length + 8] == (2).to_bytes(8, "little")
    (tmp_path / "long.gguf").write_bytes(whole[:length] + (2**40).to_bytes(8, "little") + whole[length + 8 :])
    with pytest.raises(ValueError, match="it is cut short or damaged"):
        gguf_conversion.convert(tmp_path / "long.gguf", tmp_path / "converted")


def test_a_base_that_is_no_name_is_none(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": ["some/model"]}))
    assert "some/model" in peft_adapters.remark_on_base(tmp_path, "some/model")


def test_an_index_of_names_that_no_file_can_have_is_one_line(tmp_path):
    for name in ("x" * 3000, "\0", "\ud800"):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
        with pytest.raises(UserError, match="index"):
            weight_files(tmp_path)


def test_half_a_character_is_written_as_a_question_mark(tmp_path):
    replace_file(tmp_path / "report.html", "a\ud800b")
    assert (tmp_path / "report.html").read_text() == "a?b"
