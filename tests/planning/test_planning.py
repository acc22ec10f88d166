"""What a run will cost: sizes are counted, not guessed, and costs follow what they should."""

import json
from pathlib import Path

import pytest

import itda
from itda.capturing import Capture, CaptureOptions
from itda.errors import ModelError, OptionError
from itda.planning import MACHINES, ModelSize, plan
from itda.planning.costs import windows
from support import tiny

LARGE = Path(__file__).parent.parent.parent / "benchmarks" / "configs" / "llama-3.1-405b.json"


def planned(**options):
    return plan(LARGE, on="h200x8", **{"tokens": 10**6, "atoms": 16_384, **options})


def test_sizes_are_those_of_the_model(data, llama):
    found = ModelSize.of(data / "models" / "stories260k")
    assert found.parameters == sum(parameter.numel() for parameter in llama.module.parameters())
    assert (found.depth, found.width, found.vocabulary) == (5, llama.width, llama.vocabulary)
    assert found.active_parameters == found.layer_parameters


def test_a_model_that_is_not_there_is_counted_from_its_configuration():
    found = ModelSize.of(LARGE)
    assert found.parameters == pytest.approx(405.85e9, rel=1e-3)
    assert found.depth == 126
    assert found.dtype == "bfloat16"


@pytest.mark.parametrize("name", sorted(tiny.EXPERTS))
def test_of_experts_those_count_that_a_token_uses(name, tmp_path):
    tiny.EXPERTS[name]().save_pretrained(tmp_path)
    found = ModelSize.of(tmp_path)
    assert 0.3 * found.layer_parameters < found.active_parameters < found.layer_parameters


@pytest.mark.parametrize("name", sorted({**tiny.DECODERS, **tiny.ENCODERS}))
def test_any_architecture_is_tried_out(name, tmp_path):
    {**tiny.DECODERS, **tiny.ENCODERS}[name]().save_pretrained(tmp_path)
    found = ModelSize.of(tmp_path)
    assert found.depth == tiny.DEPTH
    assert found.pass_seconds(2, 16, 1) > 0


def test_windows_are_those_of_a_capture(llama, stories):
    few = itda.Corpus.from_texts([document.text for document in stories][:60])
    run = Capture(llama, few, ["resid_post.1"], CaptureOptions())
    for tokens in (1000, run.total):
        taken = Capture(llama, few, ["resid_post.1"], CaptureOptions(tokens=tokens))
        found = windows(tokens, run.total, 128, run.total / len(few))
        assert found == pytest.approx(sum(1 for _ in taken._pieces()), rel=0.25)


def test_costs_follow_what_they_should():
    one = planned()
    assert sum(one.seconds.values()) == one.total_seconds
    assert one.memory["weights"] == pytest.approx(2 * 405.85e9, rel=1e-3)
    more = planned(tokens=10**7)
    assert more.seconds["model"] == pytest.approx(10 * one.seconds["model"], rel=0.01)
    deep, shallow = planned(layer=125), planned(layer=0)
    assert deep.seconds["model"] == pytest.approx(126 * shallow.seconds["model"])
    wide = planned(atoms=32_768)
    assert wide.memory["dictionary"] > 2 * one.memory["dictionary"]
    stored = planned(store="bfloat16")
    assert stored.disk["store"] == 10**6 * (2 * 16_384 + 54)
    assert stored.total_seconds > one.total_seconds
    from_disk = planned(from_disk=True)
    assert from_disk.memory["weights"] < 0.02 * one.memory["weights"]
    assert from_disk.disk["hidden states, until it ends"] > 2 * 10**6 * 16_384 * 2
    assert from_disk.seconds["hidden states"] > 0


def test_workers_share_the_work():
    few, many = (planned(tokens=10**8, shards=64, workers=workers) for workers in (4, 16))
    assert few.seconds["model"] == pytest.approx(4 * many.seconds["model"], rel=0.01)
    assert few.worker_memory == many.worker_memory
    assert many.network["weights"] == pytest.approx(16 * 2 * 405.85e9, rel=1e-3)
    assert many.merge_memory > 0
    assert planned(tokens=10**8).network == {}


def test_what_is_written_is_what_was_said(data, llama, stories, tmp_path):
    corpus = itda.Corpus.from_texts([document.text for document in stories][:200])
    total = Capture(llama, corpus, ["resid_post.2"], CaptureOptions()).total
    stored = itda.capture(
        llama, corpus, "resid_post.2", store=tmp_path / "store", tokens=20_000, dtype="bfloat16", progress=False
    )
    built = itda.build_from_activations(stored, atoms=512, progress=False).save_pretrained(tmp_path / "built")
    found = plan(
        data / "models" / "stories260k", tokens=20_000, atoms=512, document_tokens=total / 200, corpus_tokens=total,
        on="h100x8", store="bfloat16",
    )  # fmt: skip
    for name, folder in (("dictionary", built), ("store", tmp_path / "store")):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert found.disk[name] == pytest.approx(size, rel=0.25), name


def test_this_machine_is_measured():
    assert plan("embedded", tokens=500).asked["atoms"] == 125  # a quarter of the rows, as a build has them
    found = plan("embedded", tokens=10_000, atoms=128)
    assert found.seconds["model"] > 0
    assert not found.notes
    assert str(found).startswith("128 atoms from 10,000 tokens at layer 3 of embedded")
    assert "from data sheets, not measured" in str(planned())
    assert "do not fit into 640 GB" in str(plan(LARGE, tokens=10**6, on="h100x8"))
    assert json.loads(json.dumps(found.to_json()))["total_seconds"] == found.total_seconds


def test_what_cannot_be_planned(tmp_path):
    (tmp_path / "config.json").write_text("{")
    for options, error, says in (
        ({"tokens": 0}, OptionError, "tokens must be"),
        ({"atoms": -1}, OptionError, "atoms must be"),
        ({"layer": 126}, OptionError, "layers 0 to 125"),
        ({"layer": -1}, OptionError, "layer must be"),
        ({"on": "tpu"}, OptionError, f"there are here, {', '.join(MACHINES)}"),
        ({"store": "int8"}, OptionError, "store must be one of"),
        ({"workers": 0}, OptionError, "workers must be"),
        ({"document_tokens": float("nan")}, OptionError, "document_tokens"),
        ({"corpus_tokens": float("inf")}, OptionError, "corpus_tokens"),
        ({"window": 0}, OptionError, "window must be"),
        ({"window": 10**6}, OptionError, "at most 131,072 tokens"),
        ({"threads": -1}, OptionError, "threads must be"),
        ({"shards": 4, "workers": 8}, OptionError, "keep at most 4 workers busy"),
        ({"steps": 50, "atoms": 45}, OptionError, "from 50"),
        ({"atoms": 2000}, OptionError, "to 1,000"),
    ):
        with pytest.raises(error, match=says):
            plan(LARGE, **{"tokens": 1000, "atoms": 100, "on": "h100x8", **options})
    with pytest.raises(OptionError, match="keep at most 8 workers"):
        planned(workers=16)
    for model in (tmp_path, tmp_path / "nothing", tmp_path / "config.json"):
        with pytest.raises(ModelError):
            plan(model, tokens=1000, on="h100x8")
