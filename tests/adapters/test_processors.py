import numpy as np
import pytest
import torch
import transformers

import itda
from itda import compare
from itda.adapters import processors
from itda.errors import ActivationError, CorpusError, ModelError, OptionError, ShapeError, SiteError
from support import tiny

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24, image_size=32, patch_size=8
    )
    return transformers.ViTModel(config).eval()


@pytest.fixture(scope="module")
def processor():
    return transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def images():
    generator = np.random.default_rng(0)
    return {f"image {n}": generator.integers(0, 255, (40, 50, 3), np.uint8) for n in range(40)}


@pytest.fixture(scope="module")
def activations(module, processor, images):
    return processors.capture(processors.wrap(module, processor), images, SITE, progress=False)


def test_rows_are_what_the_model_computes(module, processor, images, activations):
    found = module(**processor(images=list(images.values()), return_tensors="pt"), output_hidden_states=True)
    assert torch.allclose(activations.rows.reshape(40, 17, 16), found.hidden_states[2], atol=1e-6)
    first, patch = activations.sources[17 * 3], activations.sources[17 * 3 + 6]
    assert (first.token, first.text) == ("class", "image 3[class]")
    assert patch.text == "image 3[patch 1, 1]"
    assert len(set(activations.sources.keys())) == len(activations)


def test_dictionaries_of_images(module, processor, images, activations, tmp_path):
    dictionary = itda.build_from_activations(activations, atoms=48, steps=4, progress=False)
    dictionary.save_pretrained(tmp_path / "d")
    dictionary = itda.Dictionary.from_pretrained(tmp_path / "d")
    assert dictionary.site == SITE
    assert all("image" in dictionary.describe(atom) for atom in range(48))
    assert {found.source.token for found in dictionary.find(token="class")} <= {"class"}
    others = {f"other {name}": image[::-1] for name, image in images.items()}
    held_out = processors.capture(processors.wrap(module, processor), others, SITE, progress=False)
    report = itda.evaluate_activations(dictionary, held_out)
    assert report.fvu < 1
    assert report.documents == 40
    again = itda.build_from_activations(activations, atoms=48, steps=4, seed=1, progress=False)
    assert compare.overlap(dictionary, again, anyway=True).shared > 0
    with pytest.raises(ModelError, match="needs a Model"):
        itda.explain(dictionary, processors.wrap(module, processor), "a cat")


def test_a_model_and_images_from_files(module, processor, images, activations, tmp_path):
    from PIL import Image

    module.save_pretrained(tmp_path / "vit")
    processor.save_pretrained(tmp_path / "vit")
    paths = []
    for name in list(images)[:3]:
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(images[name]).save(paths[-1])
    model = processors.load(tmp_path / "vit")
    found = processors.capture(model, paths, SITE, progress=False)
    assert torch.allclose(found.rows, activations.rows[: 17 * 3], atol=1e-6)
    assert found.provenance.model.is_same_model(activations.provenance.model)
    assert model.middle_site == SITE
    assert model.site("attn_heads.2").heads == 4


def test_sounds_through_a_function_of_ones_own():
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, conv_dim=(16, 16),
        conv_kernel=(10, 4), conv_stride=(5, 4), num_feat_extract_layers=2, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    module = transformers.Wav2Vec2Model(config).eval()
    model = processors.wrap(module, lambda items: {"input_values": torch.stack(items)}, id="sounds")
    found = processors.capture(model, {"a": torch.randn(400), "b": torch.randn(400)}, progress=False)
    assert found.sources[0].text == "a[position 0]"
    assert len(found) % 2 == 0


def test_registers_are_left_out_and_counted(module, processor, images):
    def loud(items):
        return processor(images=items, return_tensors="pt")

    model = processors.wrap(module, loud)
    handle = module.get_submodule("layers.1").register_forward_hook(
        lambda _, __, output: output * torch.where(torch.arange(17) == 4, 100.0, 1.0)[:, None]
    )
    try:
        found = processors.capture(model, images, SITE, progress=False)
        kept = processors.capture(model, images, SITE, sink_ratio=None, progress=False)
    finally:
        handle.remove()
    assert found.provenance.capture["counts"]["sinks"] == 40
    assert len(kept) == len(found) + 40


def test_what_cannot_be_looked_at(module, processor, images, tmp_path):
    model = processors.wrap(module, processor)
    with pytest.raises(CorpusError, match="no items"):
        processors.capture(model, {}, progress=False)
    with pytest.raises(CorpusError, match="does not take x"):
        processors.capture(model, {"x": "no such file"}, progress=False)
    with pytest.raises(CorpusError, match="does not take x"):
        processors.capture(model, {"x": object()}, progress=False)
    with pytest.raises(SiteError):
        processors.capture(model, images, "resid_post.9", progress=False)
    with pytest.raises(OptionError, match="sink_ratio"):
        processors.capture(model, images, sink_ratio=0.5, progress=False)
    with pytest.raises(ModelError, match="itda.wrap"):
        processors.wrap(module, tiny.tokenizer())
    with pytest.raises(ModelError, match="needs a transformers model"):
        processors.wrap("vit", processor)
    with pytest.raises(ModelError, match="cannot be loaded"):
        processors.load(tmp_path)


def test_arrays_from_anywhere_with_their_own_table(tmp_path):
    rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    names = [f"recording {number // 4}" for number in range(60)]
    table = {"item": names, "position": [n % 4 for n in range(60)], "label": [f"{n % 4} s" for n in range(60)]}
    dictionary = itda.build_from_activations(rows, sources=table, atoms=20, steps=2, progress=False)
    dictionary.save_pretrained(tmp_path / "d")
    dictionary = itda.Dictionary.from_pretrained(tmp_path / "d")
    source = dictionary.sources[0]
    assert source.text == f"{names[source.row]}[{source.row % 4} s]"
    assert dictionary.find("recording 3")
    assert {found.source.token for found in dictionary.find(token="2 s")} == {"2 s"}
    whole = itda.build_from_activations(rows, sources=[f"item {n}" for n in range(60)], atoms=20, progress=False)
    assert whole.describe(0) == f"item {whole.sources[0].row}"
    pandas = pytest.importorskip("pandas")
    framed = itda.build_from_activations(rows, sources=pandas.DataFrame(table), atoms=20, steps=2, progress=False)
    assert [one.text for one in framed.sources] == [one.text for one in dictionary.sources]
    for bad, error in (
        ({"item": names[:5]}, ShapeError), ({"name": names}, OptionError), ({"position": [1]}, OptionError),
        ([1] * 60, ShapeError), ({"item": ["x"] * 60, "position": [0] * 60}, ShapeError),
        ({"item": names, "label": ["a"]}, ShapeError), (["x"], ShapeError),
    ):  # fmt: skip
        with pytest.raises(error):
            itda.build_from_activations(rows, sources=bad, atoms=20, progress=False)
    with pytest.raises(ActivationError, match="no rows"):
        itda.build_from_activations(rows[:0], sources=[], atoms=20, progress=False)
