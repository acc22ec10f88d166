import gzip
import json

import pytest
import torch
from typer.testing import CliRunner

import itda
from itda.cli import app
from itda.errors import OptionError, OutputError
from itda.view.neuronpedia import Release, export
from itda.view.preparing import prepare

RELEASE = Release(
    model="stories260k", source_set="itda-res", name="itda-test", title="A test", author="Someone",
    created="2026-01-31T12:00:00",
)  # fmt: skip
# The fields of Neuronpedia's own classes for features and activations
FEATURE = {
    "modelId", "layer", "index", "creatorId", "createdAt", "maxActApprox", "hasVector", "vector", "vectorLabel",
    "vectorDefaultSteerStrength", "hookName", "topkCosSimIndices", "topkCosSimValues", "neuron_alignment_indices",
    "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices", "correlated_neurons_pearson",
    "correlated_neurons_l1", "correlated_features_indices", "correlated_features_pearson", "correlated_features_l1",
    "neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero", "freq_hist_data_bar_heights",
    "freq_hist_data_bar_values", "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist",
}  # fmt: skip
ACTIVATION = {
    "id", "tokens", "index", "layer", "modelId", "maxValue", "maxValueTokenIndex", "minValue", "values", "creatorId",
    "dataSource", "dataIndex", "dfaValues", "dfaTargetIndex", "dfaMaxValue", "createdAt", "lossValues",
    "logitContributions", "binMin", "binMax", "binContains", "qualifyingTokenIndex",
}  # fmt: skip


def lines(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


@pytest.fixture(scope="module")
def made(llama, stories):
    train, held_out = stories.split(held_out=0.2)
    dictionary = itda.build(llama, train, site="resid_post.2", atoms=64, tokens=2000, progress=False)
    return dictionary, prepare(dictionary, llama, held_out, tokens=2000, progress=False)


def test_what_is_written_is_what_the_dictionary_does(made, llama, tmp_path):
    dictionary, records = made
    where = export(dictionary, records, tmp_path, RELEASE, texts=5)
    assert where == tmp_path / "stories260k" / "2-itda-res"
    features, found, named = (
        lines(where / kind / "batch-0.jsonl.gz") for kind in ("features", "activations", "explanations")
    )
    assert len(features) == len(named) == 64
    for atom, feature in enumerate(features):
        assert set(feature) == FEATURE
        assert (feature["index"], feature["layer"], feature["hookName"]) == (
            str(atom), "2-itda-res", "blocks.2.hook_resid_post"
        )  # fmt: skip
        assert torch.allclose(torch.tensor(feature["vector"]), dictionary.atoms[atom], atol=1e-4)
        assert sum(feature["freq_hist_data_bar_heights"]) == records.counts[atom]
        assert feature["frac_nonzero"] == pytest.approx(records.counts[atom] / len(records.tokens), abs=1e-6)
        assert named[atom]["description"] == dictionary.describe(atom)
    assert len({one["id"] for one in found}) == len(found)
    windows = [records.windows[number] for number in range(len(records.windows))]
    for one in found[:20]:
        assert set(one) == ACTIVATION
        assert one["values"][one["maxValueTokenIndex"]] == one["maxValue"] == max(one["values"])
        assert len(one["tokens"]) == len(one["values"])
        assert any("".join(one["tokens"]) in window for window in windows)
    strongest = max(found, key=lambda one: one["maxValue"])
    assert strongest["maxValue"] == pytest.approx(records.coefficients.max(), abs=1e-4)
    for name in ("model", "release", "source", "sourceset"):
        assert json.loads((where / f"{name}.jsonl").read_text())["createdAt"] == "2026-01-31T12:00:00"


def test_the_same_dictionary_gives_the_same_bytes(made, tmp_path):
    one, other = (export(*made, tmp_path / name, RELEASE, texts=2) for name in ("a", "b"))
    for path in one.rglob("*.*"):
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()


def test_what_cannot_be_shown_there(made, llama, stories, tmp_path):
    dictionary, records = made
    export(dictionary, records, tmp_path, RELEASE, texts=1)
    with pytest.raises(OutputError, match="exists"):
        export(dictionary, records, tmp_path, RELEASE)
    again = export(dictionary, records, tmp_path, RELEASE, overwrite=True)
    assert (again / "features").is_dir()
    (again / "source.jsonl").unlink()
    with pytest.raises(OutputError, match="is no source that was exported"):
        export(dictionary, records, tmp_path, RELEASE, overwrite=True)
    for options in ({"model": "a/b"}, {"source_set": ""}, {"name": "x y"}, {"created": "yesterday"}):
        with pytest.raises(OptionError):
            Release(**{**vars(RELEASE), **options})
    other = itda.build(llama, stories, site="resid_post.2", atoms=32, tokens=1000, progress=False)
    with pytest.raises(OptionError, match="made of another dictionary"):
        export(other, records, tmp_path / "x", RELEASE)
    with pytest.raises(OptionError, match="without a text"):
        export(other, prepare(other, progress=False), tmp_path / "x", RELEASE)
    embedding = itda.build(llama, stories, site="model.embed_tokens", atoms=16, tokens=500, progress=False)
    shown = prepare(embedding, llama, stories, tokens=500, progress=False)
    with pytest.raises(OptionError, match="no name for 'model.embed_tokens'"):
        export(embedding, shown, tmp_path / "x", RELEASE)


def test_on_the_command_line(made, data, tmp_path):
    made[0].save_pretrained(tmp_path / "d")
    base = ["export", str(tmp_path / "d"), "--to", "neuronpedia", "--out", str(tmp_path / "np")]
    corpus = ["--corpus", str(data / "text" / "tinystories_1000.json"), "--tokens", "1000"]
    names = ["--model-id", "stories260k", "--source-set", "itda-res", "--author", "Someone"]
    done = CliRunner().invoke(app, [*base, *corpus, *names, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["folder"].endswith("2-itda-res")
    for left in ([*base, *corpus], [*base, *names], [*base[:2], "--to", "x", *base[4:]]):
        refused = CliRunner().invoke(app, left)
        assert refused.exit_code == 2
