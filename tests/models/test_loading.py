import importlib.util
import json
import shutil

import pytest
import torch
import transformers

import itda
from itda import Corpus, capture, load_model, wrap
from itda.errors import MismatchError, MissingExtraError, ModelError
from itda.models.fingerprints import DifferentSettingsWarning, tokenizer_hash
from itda.models.losses import divergence, next_token_loss, predict
from support import tiny


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    tiny.module("GPT-2").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def test_a_folder_loads_as_the_model_it_holds(saved):
    model = load_model(saved)
    assert type(model.module).__name__ == "GPT2LMHeadModel"
    assert (model.width, model.window, model.causal, model.predicts) == (16, 64, True, True)
    assert not model.module.training
    assert model.middle_site == "resid_post.1"


@pytest.mark.parametrize("name", list(tiny.ALL))
def test_what_a_token_can_see_is_found_out(name):
    model = wrap(tiny.module(name), tiny.tokenizer())
    assert model.causal == (name not in tiny.ENCODERS)
    assert model.predicts == model.causal


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(tiny.ALL))
def test_half_precision_does_not_hide_what_a_token_sees(name, dtype):
    assert wrap(tiny.module(name).to(dtype), tiny.tokenizer()).causal == (name not in tiny.ENCODERS)


def test_token_ids_beyond_the_embedding_are_said():
    module = tiny.module("GPT-2")
    module.resize_token_embeddings(20)
    model = wrap(module, tiny.tokenizer())
    with pytest.raises(ModelError, match="token id .* the model has embeddings for 20"):
        capture(model, Corpus.from_texts(["a text"]), "resid_post.0", progress=False)


def test_a_device_that_is_not_there(saved):
    for device in ("abacus", "cuda:77"):
        with pytest.raises(ModelError, match="There is no device"):
            load_model(saved, device=device)


def test_a_model_that_is_loaded_is_for_wrap():
    with pytest.raises(ModelError, match=r"Got GPT2LMHeadModel; itda\.wrap"):
        load_model(tiny.module("GPT-2"))


def test_roberta_has_fewer_positions_than_it_says():
    assert wrap(tiny.module("RoBERTa"), tiny.tokenizer()).positions == 62


def test_encoders_load_without_a_head(tmp_path):
    tiny.module("BERT").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert type(model.module).__name__ == "BertModel"


def test_the_same_weights_are_the_same_model_however_they_come(saved):
    by_path = load_model(saved).record
    by_object = wrap(load_model(saved).module, tiny.tokenizer()).record
    half = load_model(saved, dtype="bfloat16").record
    assert by_path.is_same_model(by_object)
    assert by_object.is_same_model(by_path)
    assert by_path.is_same_model(half)
    with pytest.warns(DifferentSettingsWarning, match="dtype 'float32' then, 'bfloat16' now"):
        by_path.check_same(half, "This dictionary")


def test_saving_a_model_does_not_make_it_another(tmp_path):
    model = wrap(tiny.module("GPT-2"), tiny.tokenizer())
    before = model.record
    model.module.save_pretrained(tmp_path)
    assert before.is_same_model(model.record)


def test_tokens_for_padding_change_neither_model_nor_tokenizer(saved):
    before = load_model(saved).record
    module, tokenizer = tiny.module("GPT-2"), tiny.tokenizer()
    module.config.pad_token_id = module.config.eos_token_id = 1
    module.config.num_labels = 3
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    before.check_same(wrap(module, tokenizer).record, "This dictionary")
    tokenizer.add_tokens(["king"])
    with pytest.raises(MismatchError, match="another tokenizer"):
        before.check_same(wrap(module, tokenizer).record, "This dictionary")
    module.config.layer_norm_epsilon = 0.5
    assert not before.is_same_model(wrap(module, tokenizer).record)


def test_float16_is_the_same_model_by_its_files(saved):
    assert load_model(saved).record.is_same_model(load_model(saved, dtype="float16").record)


def test_other_weights_are_another_model(saved):
    record = load_model(saved).record
    changed = load_model(saved)
    with torch.no_grad():
        changed.module.transformer.h[1].mlp.c_fc.weight.mul_(1.5)
    other = wrap(changed.module, changed.tokenizer, id="tuned")
    with pytest.raises(MismatchError, match="'tuned'"):
        record.check_same(other.record, "This dictionary")
    assert not record.is_same_model(wrap(tiny.module("Llama"), tiny.tokenizer()).record)
    retokenized = wrap(load_model(saved).module, tiny.tokenizer(begin=False))
    with pytest.raises(MismatchError, match="another tokenizer"):
        record.check_same(retokenized.record, "This dictionary")


def test_weights_changed_in_memory_are_another_model(saved):
    model = load_model(saved)
    before = model.record
    assert before.files
    with torch.no_grad():
        model.module.transformer.h[0].attn.c_proj.weight.add_(1.0)
    assert model.record.files is None
    assert not before.is_same_model(model.record)


def test_a_changed_weight_file_changes_the_fingerprint(saved):
    before = load_model(saved).record.files
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (saved / "model.safetensors").write_bytes(bytes(content))
    assert load_model(saved).record.files != before


@pytest.mark.parametrize("shipped", [[], ["<|pad|>"]])
def test_padding_with_the_end_token_changes_no_tokenizer(shipped):
    """As Llama 3 and Qwen have them: the end is no part of the model's own vocabulary."""
    from tokenizers import Tokenizer, models

    core = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    core.add_special_tokens(["<|begin|>", *shipped, "<|other|>", "<|end|>"])
    roles = {"eos_token": "<|end|>", "bos_token": "<|begin|>", "pad_token": shipped[0] if shipped else None}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **roles)
    before = tokenizer_hash(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer_hash(tokenizer) == before
    tokenizer.add_special_tokens({"pad_token": "<fill>"})
    assert tokenizer_hash(tokenizer) == before
    tokenizer.add_tokens(["ba"])
    assert tokenizer_hash(tokenizer) != before


def test_padding_settings_do_not_make_another_tokenizer(saved):
    model = load_model(saved)
    before = load_model(saved).record.tokenizer
    model.tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=4)
    assert model.record.tokenizer == before


def test_the_loss_is_the_models_own(saved):
    model = load_model(saved)
    ids = torch.randint(5, 100, (2, 12))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        expected = model.module(**inputs, labels=ids).loss
    clean = predict(model, inputs)
    assert next_token_loss(clean, ids).mean() == pytest.approx(float(expected), abs=1e-5)
    site = model.site("resid_post.1")
    same = predict(model, inputs, site, lambda values: values)
    other = predict(model, inputs, site, lambda values: torch.zeros_like(values))
    assert divergence(clean, same).abs().max() == 0
    assert (divergence(clean, other) >= -1e-6).all()
    assert divergence(clean, other).mean() > 1e-3
    by_torch = torch.nn.functional.kl_div(other[:, :-1], clean[:, :-1], log_target=True, reduction="none").sum(2)
    assert torch.allclose(divergence(clean, other), by_torch, atol=1e-5)


def test_the_embedded_model_is_the_default(embedded):
    assert embedded.id == "embedded"
    assert embedded.dtype == torch.float32
    assert 1_000_000 <= embedded.module.num_parameters() <= 1_500_000


def test_missing_pieces_are_named(tmp_path, saved):
    with pytest.raises(ModelError, match="There is no folder"):
        load_model(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model("nobody/nothing-of-this-name")
    bare = tmp_path / "bare"
    shutil.copytree(saved, bare)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(bare)
    assert load_model(bare, tokenizer=saved).tokenizer.is_fast
    (saved / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(saved)


def test_wrap_refuses_what_is_no_model():
    with pytest.raises(ModelError, match="transformers model. Got str"):
        wrap("gpt2", tiny.tokenizer())
    with pytest.raises(ModelError, match="needs its tokenizer"):
        wrap(tiny.module("GPT-2"), None)

    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="which characters a token stands for"):
        wrap(tiny.module("GPT-2"), Slow())


def test_an_encoder_decoder_names_the_way_round():
    import transformers

    module = transformers.T5Model(
        transformers.T5Config(vocab_size=300, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    with pytest.raises(ModelError, match="get_encoder"):
        wrap(module, tiny.tokenizer())
    half = wrap(module.get_encoder(), tiny.tokenizer())  # the remedy that is named
    found = capture(half, Corpus.from_texts(["a text"]), "resid_post.0", sinks="keep", progress=False)
    assert found.rows.shape == (6, 8)
    assert not half.causal
    bart = transformers.BartModel(
        transformers.BartConfig(
            vocab_size=300, d_model=8, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=64,
        )
    )  # fmt: skip
    with pytest.raises(ModelError, match="get_encoder"):
        wrap(bart, tiny.tokenizer())
    assert wrap(bart.get_encoder(), tiny.tokenizer()).site("mlp_out.1").width == 8


def test_the_models_config_is_not_changed_by_use(saved):
    model = load_model(saved)
    before = json.dumps(model.module.config.to_dict(), default=str)
    _ = model.record, model.causal, model.sites()
    assert json.dumps(model.module.config.to_dict(), default=str) == before


@pytest.mark.filterwarnings("ignore:MatMul8bitLt", "ignore::DeprecationWarning")
def test_a_model_in_8_bits(data, stories):
    where = data / "models" / "stories260k"
    model, whole = load_model(where, dtype="8bit"), load_model(where)
    assert model.precision == "float32, 8bit"
    train, held_out = stories.split(held_out=0.05)
    dictionary = itda.build(model, train, site="resid_post.2", atoms=64, tokens=1000, progress=False)
    assert itda.evaluate(dictionary, model, held_out, tokens=300, progress=False).delta_ce > 0
    with pytest.warns(DifferentSettingsWarning, match="dtype 'float32, 8bit' then, 'float32' now"):
        itda.explain(dictionary, whole, "Once upon a time")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_in_4_bits_is_loaded_so(data):
    # Without gradients its kernels for processors are not in the package: a forward pass needs a GPU
    where = data / "models" / "stories260k"
    model, whole = load_model(where, dtype="4bit"), load_model(where)
    assert model.precision == "float32, 4bit"
    assert type(model.module.model.layers[0].mlp.down_proj).__name__ == "Linear4bit"
    assert model.sites() == whole.sites()
    assert model.record.is_same_model(whole.record)


def test_few_bits_without_what_they_need(data, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(MissingExtraError, match="'quantized'"):
        load_model(data / "models" / "stories260k", dtype="4bit")
