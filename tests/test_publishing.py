import json
import os
import subprocess
import sys

import pytest
import torch

from itda import Corpus, Dictionary, build, build_from_activations, evaluate, wrap
from itda.errors import OptionError, OutputError
from itda.publishing import card
from support import tiny
from support.hub import serve

TEXTS = tiny.KINGS
PULL = """
from huggingface_hub import constants, file_download
constants.DOWNLOAD_CHUNK_SIZE = 256  # these files are smaller than what it writes at once
file_download.time.sleep = lambda *_: None  # it waits before it tries again
itda.Dictionary.from_pretrained('me/d').save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def model():
    return wrap(tiny.module("Llama"), tiny.tokenizer(), id="someone/a-model")


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    dictionary = build(model, Corpus.from_texts(TEXTS[:20]), site="resid_post.1", atoms=48, progress=False)
    return dictionary, dictionary.save_pretrained(tmp_path_factory.mktemp("hub") / "d")


def environment(hub, cache):
    """Of a process whose hub is ours; the address is read when huggingface_hub is imported."""
    return {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(cache),
        "HF_TOKEN": "x",
        "HF_HUB_DISABLE_XET": "1",  # Xet's servers are another protocol; the hub takes git LFS as well
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def fresh(code, hub, cache, *arguments):
    command = [sys.executable, "-c", f"import sys, itda\n{code}", *map(str, arguments)]
    return subprocess.run(command, env=environment(hub, cache), capture_output=True, text=True, check=False)


def itda(hub, cache, *arguments):
    command = [sys.executable, "-m", "itda", *map(str, arguments)]
    return subprocess.run(command, env=environment(hub, cache), capture_output=True, text=True, check=False)


def test_a_dictionary_goes_to_the_hub_and_comes_back(saved, tmp_path):
    _, folder = saved
    with serve() as hub:
        pushed = fresh("print(itda.Dictionary.from_pretrained(sys.argv[1]).push_to_hub('me/d'))", hub, tmp_path, folder)
        assert pushed.returncode == 0, pushed.stderr
        assert hub.address in pushed.stdout
        files = hub.repositories["me/d"]
        assert set(files) == {path.name for path in folder.iterdir()} | {"README.md"}
        assert hub.objects  # the arrays went the way of large files
        assert b"base_model: someone/a-model" in files["README.md"]
        # What else is in a repository is not even fetched
        files |= {"evil.py": b"raise SystemExit(9)", "pickle.bin": b"\x80", "sub/more.safetensors": b"x"}
        pulled = itda(hub, tmp_path, "pull", "me/d", "--out", tmp_path / "back", "--json")
        assert pulled.returncode == 0, pulled.stderr
        assert json.loads(pulled.stdout)["atoms"] == 48
        assert not {"evil.py", "pickle.bin"} & set(hub.asked)
        for path in folder.iterdir():
            assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_what_a_hub_answers_is_said(saved, tmp_path):
    said = {401: "log in", 403: "ask for access", 404: "check the name", 429: "wait a few", 500: "Try again"}
    code = """
from huggingface_hub.utils import _http
_http.time.sleep = lambda *_: None  # it waits before it tries again
from itda.errors import FormatError, OutputError
dictionary = itda.Dictionary.from_pretrained(sys.argv[1])
for status in (401, 403, 404, 429, 500):
    name = f'answers/{status}'
    for act in (lambda: dictionary.push_to_hub(name), lambda: itda.Dictionary.from_pretrained(name, revision='v1')):
        try:
            act()
        except (OutputError, FormatError) as error:
            print(type(error).__name__, error)
"""
    with serve() as hub:
        done = fresh(code, hub, tmp_path, saved[1])
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    for status, says in said.items():
        up, down = next(lines), next(lines)
        assert up.startswith(
            f"OutputError The dictionary cannot be uploaded to 'answers/{status}': it answers {status}"
        )
        assert down.startswith(f"FormatError There is no folder 'answers/{status}' here")
        assert f"it answers {status}" in down
        assert says in up
        assert "at the revision 'v1'" in down


def test_a_download_that_breaks_off_goes_on(saved, tmp_path):
    _, folder = saved
    with serve() as hub:
        hub.repositories["me/d"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        largest = max(map(len, hub.repositories["me/d"].values()))
        hub.most = largest // 3
        done = fresh(PULL, hub, tmp_path, tmp_path / "back")
        assert done.returncode == 0, done.stderr
        assert len(hub.ranges) >= 2  # it did not begin anew
        for path in folder.iterdir():
            assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_a_hub_that_stays_away_leaves_nothing_half_written(saved, tmp_path):
    _, folder = saved
    with serve() as hub:
        hub.repositories["me/d"] = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.broken = "sources.safetensors"
        broken = fresh(PULL, hub, tmp_path, tmp_path / "back")
        assert "the connection broke off" in broken.stderr, broken.stderr
        assert not (tmp_path / "back").exists()
        there = [path for path in tmp_path.rglob("snapshots/*/*") if path.exists()]
        assert there
        hub.broken, hub.asked = None, []
        assert fresh(PULL, hub, tmp_path, tmp_path / "back").returncode == 0
        assert not {path.name for path in there} & set(hub.asked)  # what was there was not fetched again


def test_a_card_without_a_dictionary(tmp_path):
    with serve() as hub:
        hub.repositories["me/empty"] = {"README.md": b"# A card"}
        refused = itda(hub, tmp_path, "pull", "me/empty", "--out", tmp_path / "back")
        assert refused.returncode == 2
        assert "no itda.json" in refused.stderr
        assert not (tmp_path / "back").exists()


def test_private_text_stays_here(saved, model, tmp_path):
    dictionary, folder = saved
    with serve() as hub:
        pushed = itda(hub, tmp_path, "push", folder, "me/p", "--texts", "none", "--private", "--json")
        assert pushed.returncode == 0, pushed.stderr
        for content in hub.repositories["me/p"].values():
            assert b"queen" not in content
        fetched = itda(hub, tmp_path, "pull", "me/p", "--out", tmp_path / "p")
        assert fetched.returncode == 0, fetched.stderr
    found = Dictionary.from_pretrained(tmp_path / "p")
    assert [source.token for source in found.sources] == [source.token for source in dictionary.sources]
    assert found.sources.keys() == dictionary.sources.keys()
    assert found.find(token=dictionary.sources[0].token)
    report = evaluate(found, model, Corpus.from_texts(TEXTS[20:]), progress=False)
    assert "random atoms" not in report.baselines  # there is no text to take them from
    mixed = build(model, Corpus.from_texts(TEXTS[:20]), site="resid_post.1", atoms=32, method="mixture", progress=False)
    mixed.without_texts().save_pretrained(tmp_path / "m")
    assert not any(b"queen" in path.read_bytes() for path in (tmp_path / "m").iterdir())
    assert [part.source.token for part in Dictionary.from_pretrained(tmp_path / "m").mixtures[3]] == [
        part.source.token for part in mixed.mixtures[3]
    ]


def test_where_a_model_is_on_this_machine_is_not_told(saved, tmp_path):
    (tmp_path / "secret" / "a-model").mkdir(parents=True)
    own = wrap(tiny.module("Llama"), tiny.tokenizer(), id=str(tmp_path / "secret" / "a-model"))
    built = build(own, Corpus.from_texts(TEXTS[:20]), site="resid_post.1", atoms=48, progress=False)
    folder = built.save_pretrained(tmp_path / "d")
    assert built.model_id.endswith("secret/a-model")
    with serve() as hub:
        pushed = itda(hub, tmp_path, "push", folder, "me/p", "--json")
        assert pushed.returncode == 0, pushed.stderr
        for content in hub.repositories["me/p"].values():
            assert b"secret" not in content
        fetched = itda(hub, tmp_path, "pull", "me/p", "--out", tmp_path / "p")
        assert fetched.returncode == 0, fetched.stderr
    found = Dictionary.from_pretrained(tmp_path / "p")
    assert found.model_id == "a-model"
    assert found.fingerprint == built.fingerprint


def test_a_card_with_what_it_is_worth(saved, model, tmp_path):
    _, folder = saved
    report = evaluate(saved[0], model, Corpus.from_texts(TEXTS[20:]), progress=False)
    with serve() as hub:
        code = """
from itda.evaluation.report import Report, Scores
import json
found = json.loads(sys.argv[2])
scores = lambda one: one and Scores(**one)
report = Report(**{**found, 'scores': scores(found['scores']),
    'baselines': {name: scores(one) for name, one in found['baselines'].items()},
    'everything_replaced': scores(found['everything_replaced'])})
itda.Dictionary.from_pretrained(sys.argv[1]).push_to_hub('me/w', report=report, license='mit')
"""
        pushed = fresh(code, hub, tmp_path, folder, json.dumps(report.to_json()))
        assert pushed.returncode == 0, pushed.stderr
        files = hub.repositories["me/w"]
    text = files["README.md"].decode()
    assert f"| this dictionary | {report.fvu:.4f} |" in text
    assert "| random atoms |" in text
    assert "license: mit" in text
    assert "![FVU on held-out text](fidelity.png)" in text
    assert files["fidelity.png"].startswith(b"\x89PNG")


def test_the_card_says_what_it_is(saved):
    dictionary, _ = saved
    text = card(dictionary, "me/d")
    for said in ("48 of width 16", "resid_post.1", "someone/a-model", "budget", 'from_pretrained("me/d")'):
        assert said in text
    most_used = int(dictionary.usage_counts.argmax())
    assert dictionary.sources[most_used].text in text
    bare = build_from_activations(torch.randn(100, 8), atoms=20, progress=False)
    assert "base_model" not in card(bare, "me/bare")
    with pytest.raises(OptionError, match=r"that of itda\.evaluate"):
        card(dictionary, "me/d", report={"fvu": 1})
    with pytest.raises(OptionError, match="A licence is named"):
        card(dictionary, "me/d", license="mit\nprivate: false")


@pytest.mark.parametrize("name", ["d", "a/b/c", "me/", None, "me/d d", 'me/d")\n'])
def test_names_that_are_none(saved, name):
    for make in (saved[0].push_to_hub, lambda name: card(saved[0], name)):
        with pytest.raises(OptionError, match="called user/name"):
            make(name)
    with pytest.raises(OptionError, match="texts"):
        saved[0].push_to_hub("me/d", texts="some")


def test_offline_is_said(saved):
    dictionary, _ = saved
    with pytest.raises(OutputError, match="cannot be uploaded to 'me/d'.*HF_HUB_OFFLINE"):
        dictionary.push_to_hub("me/d")
