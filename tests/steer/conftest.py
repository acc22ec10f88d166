"""A tiny model and a dictionary of it."""

import pytest

import itda
from support import tiny


@pytest.fixture(scope="package")
def gpt():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())


@pytest.fixture(scope="package")
def dictionary(gpt):
    corpus = itda.Corpus.from_texts(tiny.KINGS)
    return itda.build(gpt, corpus, site="resid_post.1", atoms=24, steps=3, method="random", progress=False)
