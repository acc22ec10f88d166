"""Tiny random models of many architectures, and a tokenizer for them."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

VOCABULARY, WIDTH, DEPTH = 300, 16, 3
KINGS = [f"the {word} king and the old queen of number {number}" for number, word in enumerate(["good", "bad"] * 15)]
_COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 4,
    "intermediate_size": 24, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
_GPT = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": DEPTH,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_EXPERTS = {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}

DECODERS: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: t.GPT2Config(**_GPT),
    "GPT-NeoX": lambda: t.GPTNeoXConfig(**_COMMON),
    "GPT-J": lambda: t.GPTJConfig(**_GPT, rotary_dim=4),
    "OPT": lambda: t.OPTConfig(**_COMMON, ffn_dim=24, word_embed_proj_dim=WIDTH),
    "Llama": lambda: t.LlamaConfig(**_GROUPED),
    "Mistral": lambda: t.MistralConfig(**_GROUPED),
    "Qwen2": lambda: t.Qwen2Config(**_GROUPED),
    "Qwen3": lambda: t.Qwen3Config(**_GROUPED, head_dim=8),
    "Gemma 2": lambda: t.Gemma2Config(**_GROUPED, head_dim=8),
    "Gemma 3": lambda: t.Gemma3TextConfig(**_GROUPED, head_dim=8),
    "Phi": lambda: t.PhiConfig(**_COMMON),
    "Phi-3": lambda: t.Phi3Config(**_GROUPED),
    "Falcon": lambda: t.FalconConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=4, parallel_attn=True
    ),
    "Bloom": lambda: t.BloomConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=DEPTH, n_head=4),
}
EXPERTS: dict[str, Callable[[], Any]] = {
    "Qwen2-MoE": lambda: t.Qwen2MoeConfig(**_EXPERTS, shared_expert_intermediate_size=8),
    "Qwen3-MoE": lambda: t.Qwen3MoeConfig(**_EXPERTS, head_dim=8),
    "Mixtral": lambda: t.MixtralConfig(**_GROUPED, num_local_experts=4),
}
ENCODERS: dict[str, Callable[[], Any]] = {
    "BERT": lambda: t.BertConfig(**_COMMON),
    "RoBERTa": lambda: t.RobertaConfig(**{**_COMMON, "pad_token_id": 1}),
    "DistilBERT": lambda: t.DistilBertConfig(
        vocab_size=VOCABULARY, dim=WIDTH, n_layers=DEPTH, n_heads=4, hidden_dim=24, max_position_embeddings=64
    ),
    "ELECTRA": lambda: t.ElectraConfig(**_COMMON, embedding_size=WIDTH),
    "MPNet": lambda: t.MPNetConfig(**{**_COMMON, "pad_token_id": 1}),
}
ALL = {**DECODERS, **EXPERTS, **ENCODERS}


def module(name: str, seed: int = 0) -> Any:
    """A randomly initialised model of that architecture, in evaluation mode."""
    torch.manual_seed(seed)
    kind = t.AutoModel if name in ENCODERS else t.AutoModelForCausalLM
    return kind.from_config(ALL[name]()).eval()


def wider() -> Any:
    """A model of twice the width of the others."""
    config = t.GPT2Config(vocab_size=VOCABULARY, n_embd=2 * WIDTH, n_layer=DEPTH, n_head=4, n_positions=64)
    return t.GPT2LMHeadModel(config).eval()


def tokenizer(*, begin: bool = True, end: bool = False) -> Any:
    """A byte-level tokenizer: every byte is a token; `<s>` (0) may begin and `</s>` (1) may end a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, **{letter: place + 2 for place, letter in enumerate(alphabet)}}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if begin or end:
        single = f"{'<s> ' if begin else ''}$A{' </s>' if end else ''}"
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    return t.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<s>")
