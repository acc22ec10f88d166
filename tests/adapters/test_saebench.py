import dataclasses

import pytest
import torch

from itda import Corpus, build, evaluate, wrap
from itda.adapters import saebench, saelens
from itda.errors import OptionError
from support import tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
WINDOW = 64


@pytest.fixture(scope="module")
def dictionary(gpt2, stories):
    train, _ = stories.split(held_out=0.5, seed=0)
    return build(gpt2, train, site="resid_post.2", atoms=128, tokens=6000, steps=4, progress=False)


def test_its_core_evaluation_says_what_ours_does(dictionary, gpt2, hooked, stories):
    import datasets
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_bench.evals.core.main import run_evals
    from sae_bench.sae_bench_utils.general_utils import load_and_format_sae
    from sae_lens.training.activations_store import ActivationsStore

    texts = []
    for document in stories.split(held_out=0.5, seed=0)[1]:  # one window each, of the same tokens for both
        offsets = gpt2.tokenizer(document.text, return_offsets_mapping=True)["offset_mapping"]
        text = document.text[: offsets[WINDOW - 1][1]] if len(offsets) >= WINDOW else ""
        if len(gpt2.tokenizer(text)["input_ids"]) == WINDOW:
            texts.append(text)
    texts = texts[:8]
    sae_id, sae, _ = load_and_format_sae("itda", saebench.as_sae(dictionary, model_name="gpt2"), "cpu")
    assert sae_id == "custom_sae"
    store = ActivationsStore.from_sae(
        hooked, sae, datasets.Dataset.from_dict({"text": texts}), context_size=WINDOW, streaming=False,
        store_batch_size_prompts=4, disable_concat_sequences=True,
    )  # fmt: skip
    config = CoreEvalConfig(
        model_name="gpt2", batch_size_prompts=4, n_eval_reconstruction_batches=2, n_eval_sparsity_variance_batches=2,
        context_size=WINDOW, compute_kl=True, compute_ce_loss=True, compute_l2_norms=True,
        compute_sparsity_metrics=True, compute_variance_metrics=True, compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
    )  # fmt: skip
    metrics, by_feature = run_evals(sae, store, hooked, config)
    ours = evaluate(dictionary, gpt2, Corpus.from_texts(texts), tokens=None, baselines=False, progress=False)
    assert ours.tokens == 8 * WINDOW
    found = metrics["model_performance_preservation"]
    assert found["ce_loss_without_sae"] == pytest.approx(ours.loss, abs=1e-4)
    assert found["ce_loss_with_sae"] - found["ce_loss_without_sae"] == pytest.approx(ours.delta_ce, abs=1e-4)
    assert found["ce_loss_score"] == pytest.approx(ours.ce_score, abs=1e-4)
    # Theirs counts the last token of a sequence too, after which nothing is predicted
    assert metrics["model_behavior_preservation"]["kl_div_with_sae"] == pytest.approx(ours.kl, rel=0.02)
    assert metrics["sparsity"]["l0"] == pytest.approx(ours.l0, abs=1e-3)
    assert metrics["reconstruction_quality"]["cossim"] == pytest.approx(ours.cosine, abs=1e-4)
    assert sum(by_feature["feature_density"]) == pytest.approx(ours.l0, abs=1e-3)


def test_it_has_the_whole_contract(dictionary):
    from sae_bench.custom_saes.custom_sae_config import CustomSAEConfig

    sae = saebench.as_sae(dictionary)
    wanted = {field.name for field in dataclasses.fields(CustomSAEConfig)}
    assert wanted <= {field.name for field in dataclasses.fields(sae.cfg)}
    assert wanted <= set(sae.cfg.to_dict())
    assert (sae.cfg.hook_name, sae.cfg.hook_layer, sae.cfg.d_sae) == ("blocks.2.hook_resid_post", 2, 128)
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert sae.check_decoder_norms()
    rows = torch.randn(2, 5, 128) + dictionary.mean
    codes = dictionary.encode(rows.reshape(10, 128))
    assert torch.equal(sae.encode(rows).reshape(10, -1), codes.to_dense(128))
    assert torch.allclose(sae(rows).reshape(10, -1), dictionary.decode(codes), atol=1e-5)
    other = sae.W_dec.detach().flip(0)
    with torch.no_grad():
        sae.W_dec.copy_(other)
    expected = dictionary.encode(rows.reshape(10, 128)).to_dense(128).flip(1)
    assert torch.allclose(sae.encode(rows).reshape(10, -1), expected, atol=1e-4)
    small = sae.to(torch.bfloat16)
    assert small.dtype == torch.bfloat16
    assert small.encode(rows.bfloat16()).dtype == torch.bfloat16
    assert small.check_decoder_norms()


def test_what_is_read_before_a_norm_is_no_hook_of_transformer_lens():
    """TransformerLens's hook_attn_out and hook_mlp_out of a Gemma 2 are behind the norms that follow."""
    model = wrap(tiny.module("Gemma 2"), tiny.tokenizer())
    texts = Corpus.from_texts(tiny.KINGS)
    attention, stream = (
        build(model, texts, site=site, atoms=8, progress=False) for site in ("attn_out.1", "resid_post.1")
    )
    with pytest.raises(OptionError, match=r"no name for 'attn_out\.1'"):
        saebench.as_sae(attention)
    assert saebench.as_sae(stream).cfg.hook_name == "blocks.1.hook_resid_post"
    assert saelens.hook_of(attention) is None
    assert saelens.hook_of(attention, model) == "model.layers.1.self_attn.o_proj"


def test_places_it_cannot_read(dictionary, gpt2, stories):
    other = build(gpt2, stories, site="transformer.wte", atoms=16, tokens=500, progress=False)
    with pytest.raises(OptionError, match="no name for 'transformer.wte'"):
        saebench.as_sae(other)
    with pytest.raises(OptionError, match="bare array"):
        saebench.as_sae(dataclasses.replace(dictionary, provenance=None))
    with pytest.raises(OptionError, match=r"needs an itda\.Dictionary"):
        saebench.as_sae("runs/l2")
