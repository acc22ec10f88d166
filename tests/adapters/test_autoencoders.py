import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import itda
from itda import build, capture, compare, evaluate, explain
from itda.adapters import autoencoders, dictionary_learning, saelens, sparsify
from itda.cli import app
from itda.errors import ActivationError, FormatError, MismatchError, OptionError, OutputError, ShapeError
from itda.pursuit import Coding, pursue
from itda.view.pages import summary
from itda.view.preparing import prepare

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Detected pickle")
SITE = "resid_post.2"
LATENTS, K = 96, 4


@pytest.fixture(scope="module")
def lens():
    """SAELens, with our class known to it."""
    import sae_lens

    saelens.register()
    saelens.register()  # no harm
    return sae_lens


@pytest.fixture(scope="module")
def rows(llama, stories):
    return capture(llama, stories, SITE, tokens=600, seed=9, progress=False).rows


@pytest.fixture(scope="module")
def built(llama, stories):
    train, _ = stories.split(held_out=0.1, seed=0)
    ways = {
        "default": {},
        "mixture": {"method": "mixture"},
        "signed": {"method": "paper", "max_cosine_gap": 0.05, "steps": 6},
        "learned": {"method": "learned", "coding": Coding(steps=4, method="omp")},
    }
    return {
        name: build(llama, train, site=SITE, atoms=96, tokens=3000, progress=False, **options)
        for name, options in ways.items()
    }


@pytest.fixture(scope="module")
def folders(lens, tmp_path_factory):
    """An untrained autoencoder of each library, saved by itself, with its decoder."""
    from dictionary_learning.trainers.top_k import AutoEncoderTopK
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("foreign")
    sae = lens.TopKSAE(lens.TopKSAEConfig(d_in=64, d_sae=LATENTS, k=K))
    sae.cfg.metadata.hook_name = "blocks.2.hook_resid_post"
    sae.b_dec.data.normal_()
    sae.save_model(base / "sae_lens")
    coder = SparseCoder(64, SparseCoderConfig(num_latents=LATENTS, k=K))
    coder.b_dec.data.normal_()
    coder.save_to_disk(base / "sparsify")
    learned = AutoEncoderTopK(64, LATENTS, K)
    learned.b_dec.data.normal_()
    (base / "dictionary_learning").mkdir()
    torch.save(learned.state_dict(), base / "dictionary_learning" / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "k": K, "submodule_name": "resid_post_layer_2", "lm_name": "llama"}
    (base / "dictionary_learning" / "config.json").write_text(json.dumps({"trainer": trainer}))
    decoders = {
        "sae_lens": (sae.W_dec, sae.b_dec),
        "sparsify": (coder.W_dec, coder.b_dec),
        "dictionary_learning": (learned.decoder.weight.T, learned.b_dec),
    }
    return base, {name: (one.detach(), other.detach()) for name, (one, other) in decoders.items()}


@pytest.mark.parametrize("kind", ["default", "mixture", "signed", "learned"])
def test_saelens_makes_the_same_codes_and_reconstructions(kind, built, rows, lens, tmp_path):
    dictionary = built[kind]
    codes = dictionary.encode(rows)
    saelens.export(dictionary, tmp_path / "sae")
    sae = lens.SAE.load_from_disk(tmp_path / "sae")
    acts = sae.encode(rows)
    assert torch.equal(acts, codes.to_dense(len(dictionary)))
    assert bool((acts < 0).any()) == (kind in ("signed", "learned"))
    assert torch.allclose(sae.decode(acts), dictionary.decode(codes), atol=1e-5)
    assert torch.allclose(sae(rows.reshape(3, 200, -1)), sae.decode(acts).reshape(3, 200, -1))
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.context_size) == ("blocks.2.hook_resid_post", 128)
    sae.fold_W_dec_norm()
    assert torch.equal(sae.encode(rows), acts)
    with pytest.raises(NotImplementedError, match="nothing to fold"):
        sae.fold_activation_norm_scaling_factor(2.0)
    assert sae.to(torch.bfloat16).encode(rows[:8]).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["default", "mixture", "learned"])
def test_a_dictionary_comes_back_whole(kind, built, tmp_path):
    dictionary = built[kind]
    saelens.export(dictionary, tmp_path / "sae")
    back = saelens.read(tmp_path / "sae")
    back.save_pretrained(tmp_path / "back")
    dictionary.save_pretrained(tmp_path / "own")
    for path in (tmp_path / "own").iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_what_saelens_saves_again_has_codes_but_no_sources(built, rows, lens, tmp_path):
    sae = saelens.as_sae(built["default"])
    sae.save_model(tmp_path / "again")
    assert torch.equal(lens.SAE.load_from_disk(tmp_path / "again").encode(rows), sae.encode(rows))
    back = saelens.read(tmp_path / "again")
    assert back.coding == built["default"].coding
    assert not back.sources.named
    assert torch.equal(back.encode(rows).atoms, built["default"].encode(rows).atoms)


def test_it_works_in_the_hooks_of_saelens(built, llama, lens):
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig

    shape = {"n_layers": 3, "d_model": 64, "n_ctx": 64, "d_head": 16, "n_heads": 4, "d_vocab": 50}
    hooked = HookedSAETransformer(HookedTransformerConfig(**shape, act_fn="relu", seed=0))
    sae = saelens.as_sae(built["default"])
    tokens = torch.arange(20)[None]
    clean, cache = hooked.run_with_cache(tokens)
    spliced, with_sae = hooked.run_with_cache_with_saes(tokens, saes=[sae])
    name = "blocks.2.hook_resid_post"
    assert torch.equal(with_sae[f"{name}.hook_sae_input"], cache[name])
    codes = built["default"].encode(cache[name][0])
    assert torch.equal(with_sae[f"{name}.hook_sae_acts_post"][0], codes.to_dense(len(sae.W_dec)))
    assert not torch.equal(clean, spliced)
    with hooked.saes(saes=[sae], use_error_term=True):
        assert torch.allclose(hooked(tokens), clean, atol=1e-4)


def test_heads_are_flattened_as_saelens_does(llama, stories, lens, tmp_path):
    dictionary = build(llama, stories, site="blocks.2.attn.hook_z", atoms=32, tokens=2000, progress=False)
    saelens.export(dictionary, tmp_path / "z")
    sae = lens.SAE.load_from_disk(tmp_path / "z")
    rows = torch.randn(5, 8, 8)  # tokens, heads, their width
    assert torch.equal(sae.encode(rows), dictionary.encode(rows.reshape(5, 64)).to_dense(32))
    assert sae(rows).shape == (5, 8, 8)


def test_the_hook_is_the_module_of_a_transformers_model(built, llama):
    assert saelens.as_sae(built["default"], model=llama).cfg.metadata.hook_name == "model.layers.2"


@pytest.mark.parametrize("library", ["sae_lens", "sparsify", "dictionary_learning"])
def test_autoencoders_are_read_as_directions(library, folders, rows, llama, stories, tmp_path):
    base, decoders = folders
    decoder, bias = decoders[library]
    dictionary = autoencoders.read(base / library)
    assert (len(dictionary), dictionary.kind, dictionary.coding.steps) == (LATENTS, "learned", K)
    assert dictionary.build.method.startswith(library)
    if library != "sparsify":
        assert dictionary.build.options["site"] == SITE
    unit = torch.nn.functional.normalize(decoder, dim=1)
    codes = dictionary.encode(rows)
    assert torch.equal(codes.atoms, pursue(rows - bias, unit, dictionary.coding).atoms)
    assert torch.allclose(dictionary.mean, bias)
    # It is saved, evaluated, explained and compared as any dictionary is
    dictionary.save_pretrained(tmp_path / "d")
    dictionary = itda.Dictionary.from_pretrained(tmp_path / "d")
    report = evaluate(dictionary, llama, stories, tokens=500, site=SITE, progress=False)
    assert 0 < report.fvu < 3
    assert "row " in str(explain(dictionary, llama, "Once upon a time", site=SITE))
    assert dictionary.describe(3) == "row 3"
    assert compare.align(dictionary, dictionary).mean_cosine == pytest.approx((1, 1))
    with pytest.raises(OptionError, match="Overlap counts atoms that are one named activation each"):
        compare.overlap(dictionary, dictionary)
    with pytest.raises(OptionError, match="belong to no text"):
        _ = dictionary.activations


def test_dead_latents_are_left_out_and_the_others_keep_their_numbers(folders, tmp_path):
    shutil.copytree(folders[0] / "sae_lens", tmp_path / "sae")
    weights = load_file(tmp_path / "sae" / saelens.WEIGHTS)
    weights["W_dec"][[0, 5]] = 0
    save_file(weights, tmp_path / "sae" / saelens.WEIGHTS)
    found = saelens.read(tmp_path / "sae")
    assert len(found) == LATENTS - 2
    assert [source.row for source in found.sources][:5] == [1, 2, 3, 4, 6]
    assert "2 of 96 latents have no direction" in found.build.notes[1]


@pytest.mark.parametrize(
    ("library", "file", "content", "says"),
    [
        ("sae_lens", "cfg.json", b"[]", "no JSON object"),
        ("sae_lens", "cfg.json", b"{", "is not JSON"),
        ("sae_lens", "cfg.json", b'{"architecture": "temporal"}', "the architecture 'temporal'.*Known are standard"),
        ("sae_lens", "cfg.json", b'{"architecture": "transcoder"}', "'transcoder'"),
        ("sae_lens", "cfg.json", b'{"architecture": ["x"]}', "the architecture"),
        ("sae_lens", "cfg.json", b'{"normalize_activations": "layer_norm"}', "not in the units"),
        ("sae_lens", "cfg.json", b'{"normalize_activations": "expected_average_only_in"}', "Fold the factor in first"),
        ("sae_lens", "cfg.json", None, "has no cfg.json"),
        ("sae_lens", "sae_weights.safetensors", b"x", "not a safetensors file"),
        ("sae_lens", "sae_weights.safetensors", {"W_enc": torch.ones(2, 2)}, "has no decoder.*W_enc"),
        ("sae_lens", "sae_weights.safetensors", {"W_dec": torch.ones(2)}, "not a matrix"),
        ("sae_lens", "sae_weights.safetensors", {"W_dec": torch.ones(2, 2).int()}, "not a matrix"),
        ("sae_lens", "sae_weights.safetensors", {"W_dec": torch.zeros(2, 2)}, "all zero"),
        ("sae_lens", "sae_weights.safetensors", {"W_dec": torch.full((2, 2), torch.nan)}, "not finite"),
        ("sae_lens", "sae_weights.safetensors", {"W_dec": torch.ones(2, 2), "b_dec": torch.ones(3)}, "a bias of 3"),
        ("sparsify", "cfg.json", b'{"transcode": true}', "a transcoder"),
        ("sparsify", "sae.safetensors", {"encoder.weight": torch.ones(2, 2)}, "has no decoder"),
        ("dictionary_learning", "config.json", None, "has no config.json"),
        ("dictionary_learning", "ae.pt", b"\x80\x04", "no checkpoint of weights"),
        ("dictionary_learning", "ae.pt", b"", "no checkpoint of weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(library, file, content, says, folders, tmp_path):
    folder = shutil.copytree(folders[0] / library, tmp_path / "sae")
    if content is None:
        (folder / file).unlink()
    elif isinstance(content, dict):
        save_file(content, folder / file)
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(FormatError, match=says):
        autoencoders.read(folder)


def test_a_checkpoint_runs_no_code(folders, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = shutil.copytree(folders[0] / "dictionary_learning", tmp_path / "sae")
    torch.save({"W_dec": Evil()}, folder / "ae.pt")
    with pytest.raises(FormatError, match="no checkpoint of weights"):
        dictionary_learning.read(folder)
    assert not (tmp_path / "ran").exists()


def test_folders_that_hold_nothing_or_two_things(built, tmp_path):
    for reader in (autoencoders.read, saelens.read, sparsify.read, dictionary_learning.read):
        with pytest.raises(FormatError, match="There is no folder"):
            reader(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="holds no autoencoder of SAELens"):
        autoencoders.read(tmp_path)
    one, other = (saelens.export(built[name], tmp_path / name) for name in ("default", "mixture"))
    shutil.copy(one / saelens.WEIGHTS, other / saelens.WEIGHTS)
    with pytest.raises(FormatError, match="not of the same dictionary"):
        saelens.read(other)
    config = json.loads((one / "cfg.json").read_text())
    shutil.rmtree(one / "itda")
    for coding in ({}, {"steps": "x"}, None):
        (one / "cfg.json").write_text(json.dumps({**config, "coding": coding}))
        with pytest.raises(FormatError):
            saelens.read(one)


def test_an_export_replaces_only_what_it_wrote(built, tmp_path):
    saelens.export(built["default"], tmp_path / "sae")
    with pytest.raises(OutputError, match="exists"):
        saelens.export(built["default"], tmp_path / "sae")
    saelens.export(built["mixture"], tmp_path / "sae", overwrite=True)
    assert saelens.read(tmp_path / "sae").kind == "mixtures"
    (tmp_path / "sae" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="was not written by this export"):
        saelens.export(built["default"], tmp_path / "sae", overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cfg.json").write_text("{}")
    with pytest.raises(OutputError):
        saelens.export(built["default"], tmp_path / "other", overwrite=True)
    assert (tmp_path / "other" / "cfg.json").read_text() == "{}"
    with pytest.raises(OptionError, match="needs an itda.Dictionary"):
        saelens.export("runs/l2", tmp_path / "third")


def test_directions_get_examples_and_a_place(folders, built, llama, stories, tmp_path):
    folder = folders[0] / "sae_lens"
    plain = autoencoders.read(folder)
    taken = capture(llama, stories, SITE, tokens=500, progress=False)
    found = autoencoders.read(folder, examples=taken)
    assert torch.equal(found.atoms, plain.atoms)
    assert found.by_example
    assert torch.equal(found.sources.row, plain.sources.row)
    cosines = torch.nn.functional.normalize(taken.rows - found.mean, dim=1) @ found.atoms.T
    for atom in (0, LATENTS - 1):
        assert found.sources[atom].text == taken.sources[int(cosines[:, atom].argmax())].text
    assert int(found.usage_counts.sum()) == int(plain.encode(taken.rows).l0.sum())
    explanation = explain(found, llama, "Once upon a time")  # no site has to be named
    assert "e.g." in str(explanation)
    assert evaluate(found, llama, stories, tokens=300, progress=False).site == SITE
    with pytest.raises(OptionError, match="belong to no text"):
        found.check_named("A transplant")
    saelens.export(built["default"], tmp_path / "own")
    with pytest.raises(OptionError, match="have sources of their own"):
        autoencoders.read(tmp_path / "own", examples=taken)
    with pytest.raises(ActivationError, match=r"as itda\.capture makes them"):
        autoencoders.read(folder, examples=taken.rows)
    with pytest.raises(ShapeError, match="The activations have width"):
        autoencoders.read(folder, examples=capture(llama, stories, "mlp_neurons.2", tokens=20, progress=False))


def test_import_and_export_on_the_command_line(folders, built, data, tmp_path):
    run = CliRunner()
    done = run.invoke(app, ["import", str(folders[0] / "sae_lens"), "--out", str(tmp_path / "d")])
    assert done.exit_code == 0, done.output
    assert "made by sae_lens topk; hook_name blocks.2.hook_resid_post, site resid_post.2" in done.stdout
    said = run.invoke(app, ["info", str(tmp_path / "d")]).stdout
    assert "directions that no activation has" in said
    assert "unexplained" not in said
    lines = dict(summary(prepare(itda.Dictionary.from_pretrained(tmp_path / "d"))))
    assert lines["site"] == "resid_post.2"
    assert not {"built from", "unexplained when built"} & set(lines)
    where = str(data / "models" / "stories260k")
    more = ["--model", where, "--corpus", str(data / "text" / "tinystories_1000.json"), "--tokens", "300"]
    named = run.invoke(app, ["import", str(folders[0] / "sae_lens"), *more, "--out", str(tmp_path / "named")])
    assert named.exit_code == 0, named.output
    assert "e.g. " in run.invoke(app, ["info", str(tmp_path / "named")]).stdout
    lines = dict(summary(prepare(itda.Dictionary.from_pretrained(tmp_path / "named"))))
    assert (lines["site"], lines["method"]) == ("resid_post.2", "sae_lens topk")
    for options in (more[2:], more[:2], ["--site", "resid_post.2"]):
        short = run.invoke(app, ["import", str(folders[0] / "sae_lens"), *options, "--out", str(tmp_path / "no")])
        assert short.exit_code == 2
    assert not (tmp_path / "no").exists()
    compared = run.invoke(app, ["compare", "dictionaries", *[str(tmp_path / "d")] * 2, "--by-direction", "--json"])
    assert json.loads(compared.stdout)["mutual"] == LATENTS
    refused = run.invoke(app, ["import", str(tmp_path), "--out", str(tmp_path / "e")])
    assert refused.exit_code == 2
    built["default"].save_pretrained(tmp_path / "own")
    done = run.invoke(app, ["export", str(tmp_path / "own"), "--out", str(tmp_path / "sae"), "--json"])
    assert json.loads(done.stdout)["atoms"] == 96
    assert saelens.read(tmp_path / "sae").fingerprint == built["default"].fingerprint


def test_alignment(built, llama, stories):
    one = built["default"]
    found = compare.align(one, built["learned"])
    cosines = one.atoms @ built["learned"].atoms.T
    assert torch.equal(found.of_first.atoms, cosines.argmax(1))
    assert found.mean_cosine[1] == pytest.approx(float(cosines.amax(0).mean()), abs=1e-6)
    # An unrelated rotation of the same atoms is as near as chance says, the real one nearer
    rotated = torch.linalg.qr(torch.randn(64, 64)).Q
    turned = replace(one, atoms=one.atoms @ rotated, kind="learned", provenance=None)
    chance = compare.align(replace(one, provenance=None), turned)
    assert abs(chance.mean_cosine[0] - chance.expected[0]) < 0.08
    assert found.mean_cosine[0] > found.expected[0] + 0.1
    flipped = replace(one, atoms=-one.atoms, provenance=None, kind="learned")
    assert compare.align(replace(one, provenance=None), flipped, signed=True).alike == (1, 1)
    other = build(llama, stories, site="resid_post.1", atoms=16, tokens=1000, progress=False)
    with pytest.raises(MismatchError, match="was built at 'resid_post.1'"):
        compare.align(one, other)
    with pytest.raises(OptionError):
        compare.align(one, "runs/l2")
