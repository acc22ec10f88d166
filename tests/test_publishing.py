import os
import subprocess
import sys

import pytest
import torch

from itda import Corpus, build, build_from_activations, wrap
from itda.errors import OutputError
from itda.publishing import card
from support import tiny
from support.hub import serve

TEXTS = tiny.KINGS


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = wrap(tiny.module("Llama"), tiny.tokenizer(), id="someone/a-model")
    dictionary = build(model, Corpus.from_texts(TEXTS), site="resid_post.1", atoms=48, progress=False)
    return dictionary, dictionary.save_pretrained(tmp_path_factory.mktemp("hub") / "d")


def fresh(code, hub, cache, *arguments):
    """Run code in a process whose hub is ours; the address is read when huggingface_hub is imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(cache),
        "HF_TOKEN": "x",
    }
    command = [sys.executable, "-c", f"import sys, itda\n{code}", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_dictionary_goes_to_the_hub_and_comes_back(saved, tmp_path):
    _, folder = saved
    with serve() as hub:
        pushed = fresh("print(itda.Dictionary.from_pretrained(sys.argv[1]).push_to_hub('me/d'))", hub, tmp_path, folder)
        assert pushed.returncode == 0, pushed.stderr
        assert hub.address in pushed.stdout
        files = hub.repositories["me/d"]
        assert set(files) == {path.name for path in folder.iterdir()} | {"README.md"}
        assert b"base_model: someone/a-model" in files["README.md"]
        code = "itda.Dictionary.from_pretrained('me/d').save_pretrained(sys.argv[1])"
        pulled = fresh(code, hub, tmp_path, tmp_path / "back")
        assert pulled.returncode == 0, pulled.stderr
        for path in folder.iterdir():
            assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()

        hub.status = 401
        refused = fresh("itda.Dictionary.from_pretrained(sys.argv[1]).push_to_hub('me/d')", hub, tmp_path, folder)
        assert "OutputError" in refused.stderr
        assert "Check the name, and that you are logged in" in refused.stderr
        missing = fresh("itda.Dictionary.from_pretrained('me/other')", hub, tmp_path)
        assert "FormatError" in missing.stderr


def test_the_card_says_what_it_is(saved):
    dictionary, _ = saved
    text = card(dictionary, "me/d")
    for said in ("48 of width 16", "resid_post.1", "someone/a-model", "budget", 'from_pretrained("me/d")'):
        assert said in text
    most_used = int(dictionary.usage_counts.argmax())
    assert dictionary.sources[most_used].text in text
    bare = build_from_activations(torch.randn(100, 8), atoms=20, progress=False)
    assert "base_model" not in card(bare, "me/bare")


def test_offline_is_said(saved):
    dictionary, _ = saved
    with pytest.raises(OutputError, match="cannot be uploaded to 'me/d'"):
        dictionary.push_to_hub("me/d")
