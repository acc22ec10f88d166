"""Dictionaries with hostile text, and their pages."""

import random
from typing import Any

import torch

import itda
from itda.view.preparing import prepare
from itda.view.records import Records

PREPARED: dict[str, Any] = {"tokens": 4_000, "held_out_tokens": 1_000, "effects": 3, "progress": False}
"""How the pages of the embedded model's dictionary are prepared."""
_SEEDS = (
    "<script>window.pwned = 1</script>", "</script><script>window.pwned = 1</script>", "<img src=x onerror=pwned=1>",
    "</textarea><b>out</b>", "&lt;b&gt;&amp;&#x27;", "{{ 7 * 7 }}", "{% raw %}", "${pwned}", "javascript:alert(1)",
    "\u202eright to left\u202c", "\u2066isolated\u2069", "\u200f\u061c", "עברית", "العربية مع English",
    "👩‍👩‍👧‍👦 family", "e\u0301\u0301\u0301", "\ufeffbom", "\x07bell\x1b[31mred", "nul\\x00", "a\u2028b\u2029c",
    "tab\tline\nreturn\r", "' onmouseover='pwned=1", '" autofocus onfocus="pwned=1', "<!-- comment", "]]>",
    "<svg/onload=pwned=1>",
    "\ud7ff\ue000", "𝒳𝓎𝓏", "../../etc/passwd", "%2e%2e%2f", "<style>*{display:none}</style>", "<base href=//evil>",
)  # fmt: skip


def hostile_texts(count: int = 200) -> list[str]:
    """So many texts that would like to be something else than text, the last a line of 100 kB."""
    draw = random.Random(0)
    texts = list(_SEEDS)
    while len(texts) < count - 1:
        texts.append(" ".join(draw.sample(_SEEDS, draw.randint(2, 4))) + f" {len(texts)}")
    return [*texts, "<b>long</b>" * 9_500]


def hostile_records(model: itda.models.loading.Model) -> tuple[itda.Dictionary, Records]:
    """A dictionary of such texts, and what its pages are made of."""
    corpus = itda.Corpus.from_texts(hostile_texts())
    dictionary = itda.build(model, corpus, site="resid_post.1", atoms=64, steps=4, tokens=2_000, progress=False)
    return dictionary, prepare(dictionary, model, corpus, name="<b>hostile</b>", tokens=None, progress=False)


def bare_dictionary() -> itda.Dictionary:
    """One that was built from a matrix, and has no text."""
    return itda.build_from_activations(torch.randn(200, 16), atoms=32, steps=4, progress=False)
