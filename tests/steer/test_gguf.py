"""Control vectors of llama.cpp are written and read as its own library writes and reads them."""

import numpy as np
import pytest
import torch

import itda
from itda import steer
from itda.adapters import gguf as adapter
from itda.errors import FormatError, OptionError, OutputError, ShapeError
from support import tiny

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def gpt():
    return itda.wrap(tiny.module("GPT-2"), tiny.tokenizer())


def vector_of(gpt, *sites):
    generator = torch.Generator().manual_seed(0)
    directions = {site: torch.randn(16, generator=generator) for site in sites}
    return steer.SteeringVector(directions=directions, norms=dict.fromkeys(sites, 3.0), model=gpt.record)


def test_what_is_written_is_what_is_added(gpt, tmp_path):
    vector = vector_of(gpt, "resid_post.1", "resid_post.2")
    path = vector.to_gguf(tmp_path / "v.gguf", strength=0.5)
    reader = gguf.GGUFReader(str(path))
    found = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    assert set(found) == {"direction.1", "direction.2"}
    assert np.allclose(found["direction.1"], 0.5 * 3.0 * vector.directions["resid_post.1"].numpy())
    assert all(data.dtype == np.float32 for data in found.values())
    back = steer.SteeringVector.from_gguf(path, gpt)
    ids = {"input_ids": torch.tensor([[5, 9, 40]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    with torch.no_grad():
        with vector.apply(gpt, 0.5):
            ours = gpt.module(**ids).logits
        with back.apply(gpt, 1.0):
            theirs = gpt.module(**ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_what_repeng_writes_is_read(gpt, tmp_path):
    """As repeng's export does it, block by block."""
    path = tmp_path / "repeng.gguf"
    writer = gguf.GGUFWriter(str(path), "controlvector")
    writer.add_string("controlvector.model_hint", "gpt2")
    writer.add_uint32("controlvector.layer_count", 2)
    directions = {1: np.arange(16, dtype=np.float32), 2: np.ones(16, dtype=np.float32)}
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    vector = steer.SteeringVector.from_gguf(path, gpt)
    assert vector.sites == ("resid_post.1", "resid_post.2")
    assert torch.equal(vector.directions["resid_post.1"], torch.arange(16.0))
    assert vector.facts["model_hint"] == "gpt2"


def test_what_cannot_be_carried_is_said(gpt, tmp_path):
    with pytest.raises(OptionError, match="block 0"):
        vector_of(gpt, "resid_post.0", "resid_post.1").to_gguf(tmp_path / "v.gguf")
    with pytest.raises(OptionError, match=r"Leave out mlp_out\.1"):
        vector_of(gpt, "mlp_out.1").to_gguf(tmp_path / "v.gguf")
    with pytest.raises(OptionError, match=r"\.gguf"):
        vector_of(gpt, "resid_post.1").to_gguf(tmp_path / "v.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        vector_of(gpt, "resid_post.1").to_gguf(tmp_path / "file" / "v.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"], "nothing is left behind"


def test_foreign_and_damaged_files_are_refused(gpt, tmp_path):
    path = vector_of(gpt, "resid_post.1").to_gguf(tmp_path / "v.gguf")
    content = path.read_bytes()
    for damaged in (b"", content[:4], content[:40], content[:-20], b"x" * 500):
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            adapter.read(path)
    with pytest.raises(FormatError, match="no file"):
        adapter.read(tmp_path / "none.gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tensor("direction.1", np.ones(16, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(FormatError, match="architecture 'llama'"):
        adapter.read(path)
    adapter.write(path, "gpt2", {1: np.ones(7, dtype=np.float32)})
    with pytest.raises(ShapeError, match="16 wide"):
        steer.SteeringVector.from_gguf(path, gpt)
