import pytest


@pytest.fixture(scope="module")
def hooked(gpt2):
    """The same GPT-2 in TransformerLens."""
    import transformer_lens
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    config = gpt2.module.config
    shape = transformer_lens.HookedTransformerConfig(
        n_layers=config.n_layer, d_model=config.n_embd, n_ctx=config.n_positions, n_heads=config.n_head,
        d_head=config.n_embd // config.n_head, d_mlp=4 * config.n_embd, d_vocab=config.vocab_size,
        act_fn=config.activation_function, normalization_type="LN", default_prepend_bos=False,
    )  # fmt: skip
    model = transformer_lens.HookedTransformer(shape, tokenizer=gpt2.tokenizer)
    model.load_and_process_state_dict(
        convert_gpt2_weights(gpt2.module, shape), fold_ln=False, center_writing_weights=False, center_unembed=False,
        fold_value_biases=False, refactor_factored_attn_matrices=False,
    )  # fmt: skip
    return model
