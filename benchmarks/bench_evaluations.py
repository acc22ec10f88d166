"""What SAELens and SAEBench say of a dictionary, beside what we say of it, on the same tokens of a real model.

python benchmarks/bench_evaluations.py

The model is rebuilt in TransformerLens from the same weights. Every document is cut to its first 128 tokens, so that
each is one window in all three; nothing is added or left out. Where definitions agree, the numbers must.
"""

import warnings
from typing import Any

import datasets
import torch
import transformer_lens
from common import DATA, model_folder, report
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

import itda
from itda.adapters import saebench, saelens
from itda.evaluation import evaluate
from itda.models.loading import Model

MODEL, SITE, WINDOW, WINDOWS, AT_ONCE = "seeds/gpt2-s21", "resid_post.3", 128, 96, 8
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "mixture": {"method": "mixture"},
    "paper, signed": {"method": "paper", "max_cosine_gap": 0.05, "steps": 8},
}


def main() -> None:
    warnings.filterwarnings("ignore", module="sae_lens|transformer_lens|__main__")
    model = itda.load_model(model_folder(MODEL))
    train, held_out = itda.Corpus.from_files(DATA / "text" / "wikitext_1000.json").split(held_out=0.3, seed=0)
    texts = whole_windows(model, held_out)
    hooked = in_transformer_lens(model)
    rows = []
    for name, options in WAYS.items():
        dictionary = itda.build(model, train, site=SITE, atoms=1024, tokens=100_000, progress=False, **options)
        for metric, numbers in compared(dictionary, model, hooked, texts).items():
            rows.append({"dictionary": name, "metric": metric, **numbers})
    report("evaluations", rows, model=MODEL, site=SITE, tokens=len(texts) * WINDOW)


def whole_windows(model: Model, corpus: itda.Corpus) -> list[str]:
    """The first 128 tokens of documents that have as many, and are those tokens again when they are read alone."""
    found: list[str] = []
    for document in corpus:
        ids = model.tokenizer(document.text, return_offsets_mapping=True, add_special_tokens=False)
        if len(ids["input_ids"]) < WINDOW:
            continue
        text = document.text[: ids["offset_mapping"][WINDOW - 1][1]]
        if len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) == WINDOW:
            found.append(text)
    return found[:WINDOWS]


def in_transformer_lens(model: Model) -> Any:
    """The same GPT-2 as TransformerLens has it, its weights as they are."""
    config = model.module.config
    shape = transformer_lens.HookedTransformerConfig(
        n_layers=config.n_layer, d_model=config.n_embd, n_ctx=config.n_positions, n_heads=config.n_head,
        d_head=config.n_embd // config.n_head, d_mlp=4 * config.n_embd, d_vocab=config.vocab_size,
        act_fn=config.activation_function, eps=config.layer_norm_epsilon, normalization_type="LN",
        default_prepend_bos=False, original_architecture="GPT2LMHeadModel",
    )  # fmt: skip
    hooked = transformer_lens.HookedTransformer(shape, tokenizer=model.tokenizer, default_padding_side="right")
    hooked.load_and_process_state_dict(
        convert_gpt2_weights(model.module, shape), fold_ln=False, center_writing_weights=False, center_unembed=False,
        fold_value_biases=False, refactor_factored_attn_matrices=False,
    )  # fmt: skip
    ids = torch.arange(20)[None]
    with torch.no_grad():
        difference = float((hooked(ids) - model.module(ids).logits).abs().max())
    assert difference < 1e-3, f"not the same model: logits differ by {difference}"
    return hooked.eval()


def compared(dictionary: itda.Dictionary, model: Model, hooked: Any, texts: list[str]) -> dict[str, dict[str, Any]]:
    """Metric -> what each says."""
    ours = evaluate(dictionary, model, itda.Corpus.from_texts(texts), tokens=None, baselines=False, progress=False)
    lens, bench = (flat(of(dictionary, hooked, texts)) for of in (of_saelens, of_saebench))
    rows = {
        "loss": (ours.loss, "ce_loss_without_sae"),
        "loss, replaced": ((ours.loss or 0) + (ours.delta_ce or 0), "ce_loss_with_sae"),
        "loss, zeros": (ours.loss_zero, "ce_loss_with_ablation"),
        "CE score": (ours.ce_score, "ce_loss_score"),
        "KL": (ours.kl, "kl_div_with_sae"),
        "L0": (ours.l0, "l0"),
        "L0, as the sum of densities": (ours.l0, "densities"),
        "explained variance (1 - FVU)": (1 - ours.fvu, "explained_variance"),
        "explained variance, legacy": ("", "explained_variance_legacy"),
        "cosine": (ours.cosine, "cossim"),
        "length": (ours.norm_ratio, "l2_ratio"),
        "shrinkage": (ours.shrinkage, "relative_reconstruction_bias"),
    }
    return {
        name: {"ours": own, "SAELens": lens.get(key, ""), "SAEBench": bench.get(key, "")}
        for name, (own, key) in rows.items()
    }


def of_saelens(dictionary: itda.Dictionary, hooked: Any, texts: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `sae_lens.evals.run_evals` gives."""
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    sae = saelens.as_sae(dictionary)
    batches = len(texts) // AT_ONCE
    config = get_eval_everything_config(AT_ONCE, batches, batches)
    return run_evals(sae, store(sae, hooked, texts), hooked, ActivationScaler(), config, exclude_special_tokens=False)


def of_saebench(dictionary: itda.Dictionary, hooked: Any, texts: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the core evaluation of SAEBench gives."""
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_bench.evals.core.main import run_evals
    from sae_bench.sae_bench_utils.general_utils import load_and_format_sae

    _, sae, _ = load_and_format_sae("itda", saebench.as_sae(dictionary, model_name="gpt2"), "cpu")
    assert sae.check_decoder_norms()
    batches = len(texts) // AT_ONCE
    config = CoreEvalConfig(
        model_name="gpt2", batch_size_prompts=AT_ONCE, n_eval_reconstruction_batches=batches,
        n_eval_sparsity_variance_batches=batches, context_size=WINDOW, compute_kl=True, compute_ce_loss=True,
        compute_l2_norms=True, compute_sparsity_metrics=True, compute_variance_metrics=True,
        compute_featurewise_density_statistics=True, compute_featurewise_weight_based_metrics=True,
    )  # fmt: skip
    return run_evals(sae, store(sae, hooked, texts), hooked, config)


def store(sae: Any, hooked: Any, texts: list[str]) -> Any:
    """The texts as both take them, each a sequence of its own."""
    from sae_lens.training.activations_store import ActivationsStore

    return ActivationsStore.from_sae(
        hooked, sae, datasets.Dataset.from_dict({"text": texts}), context_size=WINDOW, streaming=False,
        store_batch_size_prompts=AT_ONCE, disable_concat_sequences=True,
    )  # fmt: skip


def flat(found: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """All of their metrics by name."""
    metrics, by_feature = found
    named = {name: value for group in metrics.values() for name, value in group.items()}
    return {**named, "densities": sum(by_feature["feature_density"])}


if __name__ == "__main__":
    main()
