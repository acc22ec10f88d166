"""Models on other machines: what nnsight would send is run here, and gives the same bits as the model itself."""

import http.server
import sys
import threading

import pytest
import torch

import itda
from itda.adapters import nnsight
from itda.errors import MissingExtraError, ModelError, OptionError, SiteError
from itda.models.hooks import read

SITES = [
    "transformer.ln_f",
    "transformer.h.1.mlp",
    "resid_pre.1",
    "attn_heads.1",
    "attn_out.1",
    "mlp_neurons.1",
    "mlp_out.1",
    "resid_post.1",
    "resid_post.3",
]


@pytest.fixture(scope="module")
def folder(data):
    return data / "models" / "seeds" / "gpt2-s21"


@pytest.fixture(scope="module")
def remote(folder):
    return nnsight.load(folder, remote="local")


@pytest.fixture(scope="module")
def text(stories):
    return itda.Corpus.from_texts([document.text for document in stories][:24])


def test_no_weights_are_loaded_here(folder):
    assert all(parameter.is_meta for parameter in nnsight.load(folder, remote="local").module.parameters())


def test_a_model_that_is_here_is_no_model_there(folder):
    for name in (folder, "embedded"):
        with pytest.raises(ModelError, match="NDIF knows models by their names"):
            nnsight.load(name)


@pytest.mark.parametrize("where", [False, "local"])
def test_activations_are_those_of_the_model(folder, gpt2, where):
    ids = torch.randint(0, 2000, (3, 9))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    places = [gpt2.site(name) for name in SITES]
    found = nnsight.load(folder, remote=where).read(inputs, places[::-1])
    expected = read(gpt2.module, inputs, places)
    for name in SITES:
        assert torch.equal(found[name], expected[name]), name


def test_it_captures_builds_and_explains(remote, gpt2, text, tmp_path):
    options = {"tokens": 1500, "progress": False}
    stored = itda.capture(remote, text, ["resid_post.1", "resid_post.2"], store=tmp_path / "store", **options)
    local = itda.capture(gpt2, text, "resid_post.2", **options)
    assert torch.equal(stored["resid_post.2"].rows, local.rows)
    again = itda.capture(remote, text, ["resid_post.1", "resid_post.2"], store=tmp_path / "store", **options)
    assert again["resid_post.2"].fingerprint == stored["resid_post.2"].fingerprint

    built = itda.build(remote, text, site="resid_post.2", atoms=80, **options)
    assert torch.equal(built.atoms, itda.build(gpt2, text, site="resid_post.2", atoms=80, **options).atoms)
    saved = itda.Dictionary.from_pretrained(built.save_pretrained(tmp_path / "built"))
    assert len(itda.encode(saved, remote, text, tokens=100, progress=False)) == 100
    assert "resid_post.2" in str(itda.explain(saved, remote, "Once upon a time"))


def test_an_evaluation_has_no_losses(remote, text):
    train, held_out = text.split()
    built = itda.build(remote, train, site="resid_post.2", atoms=80, tokens=1000, progress=False)
    report = itda.evaluate(built, remote, held_out, resamples=10, progress=False)
    assert report.fvu < 0.5
    assert report.loss is None
    assert "the model predicts no next token, or was not run" in str(report)


def test_a_pass_that_does_not_come_back_is_tried_again(folder, gpt2, monkeypatch):
    waits, left = [], [ConnectionError("gone"), TimeoutError("slow")]
    monkeypatch.setattr("itda.adapters.nnsight.time.sleep", waits.append)
    remote = nnsight.load(folder, remote="local")
    once = type(remote)._read

    def flaky(self, inputs, sites):
        if left:
            raise left.pop()
        return once(self, inputs, sites)

    monkeypatch.setattr(type(remote), "_read", flaky)
    ids = torch.randint(0, 2000, (1, 4))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    place = [gpt2.site("resid_post.1")]
    assert torch.equal(remote.read(inputs, place)["resid_post.1"], read(gpt2.module, inputs, place)["resid_post.1"])
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(
    ("status", "says", "times"),
    [(503, "did not answer 3 times.*run it again later, and it goes on", 3), (401, "The server refuses", 1)],
)
def test_a_server_that_says_no(folder, text, monkeypatch, status, says, times):
    asked = []

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_error(status, "no")

        do_GET = do_POST

        def log_message(self, *_):
            pass

    waits = []
    monkeypatch.setattr("itda.adapters.nnsight.time.sleep", waits.append)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        model = nnsight.load(folder, remote=f"http://127.0.0.1:{server.server_port}", retries=2)
        # The key of a model is looked up on the hub
        monkeypatch.setattr(type(model._envoy), "to_model_key", lambda self: "a:b", raising=False)
        with pytest.raises(ModelError, match=says):
            itda.capture(model, text, "resid_post.1", progress=False)
        server.shutdown()
    assert len(asked) == times
    assert waits == [1.0, 2.0][: times - 1]


def test_what_cannot_be_loaded(folder, remote, tmp_path, monkeypatch):
    with pytest.raises(ModelError):
        nnsight.load(tmp_path)
    with pytest.raises(OptionError, match="retries"):
        nnsight.load(folder, retries=-1)
    for where in ("10.0.0.1:5000", 5, None):
        with pytest.raises(OptionError, match="remote must be"):
            nnsight.load(folder, remote=where)
    with pytest.raises(SiteError, match="no site"):
        remote.site("resid_post.99")
    monkeypatch.setitem(sys.modules, "nnsight", None)
    with pytest.raises(MissingExtraError, match="remote"):
        nnsight.load(folder)
