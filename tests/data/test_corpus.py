import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from itda import Corpus
from itda.cli.common import open_corpus
from itda.data.token_ids import DifferentTokensWarning
from itda.errors import CorpusError, OptionError


def test_repeated_and_empty_documents_are_left_out_and_counted():
    corpus = Corpus.from_texts(["one", "", "two", "one", "  \n", "one "])
    assert [document.text for document in corpus] == ["one", "two", "one "]
    assert (corpus.summary.duplicates, corpus.summary.empty, corpus.summary.documents) == (1, 2, 3)
    assert "1 repeated and 2 empty left out" in repr(corpus)


def test_ids_depend_on_the_text_alone():
    assert Corpus.from_texts(["a b", "c"]).ids[1] == Corpus.from_texts(["c"]).ids[0]


def test_the_fingerprint_knows_content_and_order():
    prints = {Corpus.from_texts(texts).fingerprint for texts in (["a", "b"], ["b", "a"], ["a", "b", "c"])}
    assert len(prints) == 3
    assert Corpus.from_texts(["a", "b", "a"]).fingerprint == Corpus.from_texts(["a", "b"]).fingerprint


def test_split_shares_no_document_and_is_the_same_in_any_order():
    texts = [f"text {number}" for number in range(50)]
    train, held_out = Corpus.from_texts(texts).split(held_out=0.2, seed=3)
    assert (len(train), len(held_out)) == (40, 10)
    assert not set(train.ids) & set(held_out.ids)
    _, other = Corpus.from_texts(texts[::-1]).split(held_out=0.2, seed=3)
    assert set(other.ids) == set(held_out.ids)
    assert set(Corpus.from_texts(texts).split(held_out=0.2, seed=4)[1].ids) != set(held_out.ids)


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_split_needs_a_share(share):
    with pytest.raises(OptionError, match="between 0 and 1"):
        Corpus.from_texts(["a", "b"]).split(held_out=share)


def test_one_document_cannot_be_split():
    with pytest.raises(CorpusError, match="split_on"):
        Corpus.from_texts(["only one"]).split()


def test_every_file_kind_gives_the_same_documents(tmp_path):
    texts = ["first text", "zweiter Text: ä 🙂", "third\ntext"]
    (tmp_path / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(texts))
    (tmp_path / "c.json").write_text(json.dumps([{"text": text, "n": 1} for text in texts]))
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n\n")
    import zstandard

    (tmp_path / "e.jsonl.zst").write_bytes(zstandard.compress((tmp_path / "d.jsonl").read_bytes()))
    expected = Corpus.from_texts(texts).ids
    for name in ("a.txt", "b.json", "c.json", "d.jsonl", "e.jsonl.zst"):
        assert Corpus.from_files(tmp_path / name, split_on="\n\n").ids == expected, name
    whole = Corpus.from_files(tmp_path, split_on="\n\n")
    assert whole.ids == expected
    assert whole.summary.duplicates == 4 * len(texts)


def test_a_text_file_is_one_document_unless_split(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone\n\ntwo", encoding="utf-8")
    assert [d.text for d in Corpus.from_files(tmp_path / "a.txt")] == ["one\n\ntwo"]


def test_files_are_read_again_not_kept(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    corpus = Corpus.from_files(path)
    path.write_text("after")
    assert [document.text for document in corpus] == ["after"]


def test_lone_surrogates_are_replaced(tmp_path):
    (tmp_path / "a.json").write_text(r'["bad \ud800 text"]')
    assert next(iter(Corpus.from_files(tmp_path / "a.json"))).text == "bad \ufffd text"


def test_bytes_that_are_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 au lait")
    with pytest.raises(CorpusError, match="not UTF-8 at byte 3"):
        Corpus.from_files(tmp_path / "a.txt").summary  # noqa: B018
    replaced = Corpus.from_files(tmp_path / "a.txt", encoding_errors="replace")
    assert next(iter(replaced)).text == "caf\ufffd au lait"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"text": "x"}', "must hold a list"),
        ("a.json", "[3]", "must be a string. Got int"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.jsonl.zst", "not compressed", "is damaged"),
        ("a.json", '[{"body": "x"}]', "no field 'text'; it has 'body'"),
        ("a.jsonl", "nonsense", "not valid JSON"),
        ("a.txt", "   ", "no document with text"),
        ("a.pdf", "x", "must end in"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=says):
        Corpus.from_files(tmp_path / name).summary  # noqa: B018


@pytest.mark.parametrize("path", ["missing.txt", "empty"])
def test_missing_files_and_folders(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="There is no file|has no file"):
        Corpus.from_files(tmp_path / path)


def test_other_mistakes(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(CorpusError, match="put it into a list"):
        Corpus.from_texts("one string")
    for wrong in (3, None):
        with pytest.raises(CorpusError, match="put it into a list"):
            Corpus.from_texts(wrong)
        with pytest.raises(CorpusError, match="a path or a list of paths"):
            Corpus.from_files(wrong)
    with pytest.raises(OptionError, match="between 0 and 1"):
        Corpus.from_texts(["a", "b"]).split(held_out="a")
    with pytest.raises(CorpusError, match="Got int"):
        Corpus.from_texts(["a", 3])
    with pytest.raises(CorpusError, match="at least one file"):
        Corpus.from_files([])
    with pytest.raises(OptionError, match="must not be empty"):
        Corpus.from_files(tmp_path, split_on="")


def test_datasets_streaming_or_not():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"body": ["one", "two", "three"], "n": [1, 2, 3]})
    for dataset in (rows, rows.to_iterable_dataset()):
        corpus = Corpus.from_dataset(dataset, text_field="body", limit=2)
        assert corpus.ids == Corpus.from_texts(["one", "two"]).ids
        assert len(corpus) == 2  # a second reading
    with pytest.raises(CorpusError, match="no column 'text'; its columns are body, n"):
        Corpus.from_dataset(rows).summary  # noqa: B018


def test_a_named_dataset_is_streamed_from_a_folder(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert Corpus.from_dataset(str(tmp_path)).ids == Corpus.from_texts(["one", "two"]).ids
    with pytest.raises(CorpusError, match="cannot be loaded"):
        Corpus.from_dataset(str(tmp_path / "nothing"))


def test_without_the_extra_the_error_names_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'itda\[data\]'"):
        Corpus.from_dataset("anything")


def test_the_embedded_corpus_is_there():
    corpus = Corpus.embedded()
    assert len(corpus) > 900
    texts = [document.text for document in corpus]
    assert any("class json.decoder.JSONDecoder" in text for text in texts)
    assert not any(len(text.strip()) == 0 for text in texts)
    assert corpus.fingerprint == Corpus.embedded().fingerprint


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_share_nothing_and_are_the_whole(count):
    texts = [f"text number {number}" for number in range(20)]
    corpus, shuffled = Corpus.from_texts(texts), Corpus.from_texts(texts[::-1])
    parts = corpus.parts(count)
    ids = [set(part.ids) for part in parts]
    assert sorted(id_ for part in ids for id_ in part) == sorted(corpus.ids)
    assert max(map(len, ids)) - min(map(len, ids)) <= 1
    assert [set(part.ids) for part in shuffled.parts(count)] == ids
    assert [part.part.number for part in parts] == list(range(count))
    assert {part.part.corpus for part in parts} == {corpus.fingerprint}
    assert parts[0].name.endswith(f"part 1 of {count}")


def test_more_parts_than_documents_are_refused():
    with pytest.raises(CorpusError, match="2 documents, too few for 3 parts"):
        Corpus.from_texts(["one", "two"]).parts(3)
    for count in (0, -1, 1.5, True, None):
        with pytest.raises(OptionError, match="parts must be"):
            Corpus.from_texts(["one", "two"]).parts(count)


def test_parquet_files(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"body": ["one", "two"], "n": [1, 2]}), tmp_path / "a.parquet")
    corpus = Corpus.from_files(tmp_path, text_field="body")
    assert [document.text for document in corpus] == ["one", "two"]
    with pytest.raises(CorpusError, match="has no column 'text'; it has 'body', 'n'"):
        list(Corpus.from_files(tmp_path))
    with pytest.raises(CorpusError, match="A document must be a string. Got int"):
        list(Corpus.from_files(tmp_path, text_field="n"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(CorpusError, match=r"a\.parquet is no Parquet file"):
        list(Corpus.from_files(tmp_path))


def test_tokens_become_the_text_they_are(gpt2, stories, tmp_path):
    import datasets
    import pyarrow
    from pyarrow import parquet

    texts = [document.text for document in stories][:30]
    ids = gpt2.tokenizer(texts)["input_ids"]
    found = Corpus.from_texts(ids, tokenizer=gpt2.tokenizer)
    assert [document.text for document in found] == texts
    # Packed for training: one sequence of all, with a special token between documents
    end = gpt2.tokenizer.eos_token_id
    packed = [token for document in ids for token in [*document, end]]
    assert Corpus.from_texts([packed], tokenizer=gpt2.tokenizer).ids == found.ids
    parquet.write_table(pyarrow.table({"input_ids": ids}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"input_ids": one}) + "\n" for one in ids))
    for name in ("a.parquet", "b.jsonl"):
        read = Corpus.from_files(tmp_path / name, text_field="input_ids", tokenizer=gpt2.tokenizer)
        assert read.ids == found.ids
    table = datasets.Dataset.from_dict({"input_ids": ids})
    read = Corpus.from_dataset(table, text_field="input_ids", tokenizer=lambda: gpt2.tokenizer, limit=5)
    assert read.ids == found.ids[:5]
    rows = torch.tensor([one[:40] for one in ids])  # a matrix is its rows
    assert len(Corpus.from_texts(rows, tokenizer=gpt2.tokenizer)) == 30
    with pytest.raises(CorpusError, match="give the tokenizer they were made with"):
        Corpus.from_texts(ids)
    for bad in ([[99999]], [[-1]], [["a"]], [[1.5]]):
        with pytest.raises(CorpusError, match="does not hold token ids of this tokenizer"):
            Corpus.from_texts(bad, tokenizer=gpt2.tokenizer)


def test_tokens_of_another_tokenizer_are_said(gpt2, llama, stories):
    texts = [document.text for document in stories][:20]
    pieces = [[token for word in text.split() for token in gpt2.tokenizer(word)["input_ids"]] for text in texts]
    with pytest.warns(DifferentTokensWarning, match="of the first tokens are others"):
        Corpus.from_texts(pieces, tokenizer=gpt2.tokenizer)


def test_a_dataset_that_breaks_off_is_said():
    import datasets

    def rows():
        yield {"text": "one"}
        raise ConnectionError("the line is dead")

    corpus = Corpus.from_dataset(datasets.IterableDataset.from_generator(rows))
    with pytest.raises(CorpusError, match="cannot be read on: .*"):
        _ = corpus.ids
    with pytest.raises(CorpusError, match="has no column 'body'; its columns are text"):
        _ = Corpus.from_dataset(datasets.Dataset.from_dict({"text": ["x"]}), text_field="body").ids
    with pytest.raises(OptionError, match="limit"):
        Corpus.from_dataset(datasets.Dataset.from_dict({"text": ["x"]}), limit=0)


def test_datasets_and_tokens_on_the_command_line(gpt2, stories, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)  # a folder is a dataset by its name, as one on the hub is
    texts = [document.text for document in stories][:12]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = open_corpus(Path(f"hf://datasets/{tmp_path.name}?split=train&limit=5"), "m", None, "text", "strict")
    assert [document.text for document in corpus] == texts[:5]
    (tmp_path / "ids.jsonl").write_text(json.dumps({"ids": gpt2.tokenizer(texts[0])["input_ids"]}) + "\n")
    corpus = open_corpus(tmp_path / "ids.jsonl", gpt2.id, None, "ids", "strict")
    assert [document.text for document in corpus] == texts[:1]
    for bad in ("?limit=x", "?rows=3", ""):
        with pytest.raises(OptionError):
            open_corpus(Path(f"hf://datasets/{'a/b' if bad else ''}{bad}"), "m", None, "text", "strict")


def test_the_line_that_is_wrong_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "two"\n')
    with pytest.raises(CorpusError, match=r"Line 3 of .*a.jsonl is not valid JSON"):
        Corpus.from_files(tmp_path / "a.jsonl").ids  # noqa: B018
    (tmp_path / "b.jsonl").write_text('{"messages": [{"role": "user", "content": "x"}]}\n')
    with pytest.raises(
        CorpusError, match=r"Name the one with the text \(text_field=, --text-field\)\. Conversations are"
    ):
        Corpus.from_files(tmp_path / "b.jsonl").ids  # noqa: B018


def test_compressed_lines_are_read_to_the_end_or_refused(tmp_path):
    import zstandard

    lines = [json.dumps({"text": f"text {number} " * 50}).encode() + b"\n" for number in range(3000)]
    frames = [zstandard.compress(b"".join(lines[start : start + 1000])) for start in (0, 1000, 2000)]
    skipped = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"note"
    file = tmp_path / "texts.jsonl.zst"
    file.write_bytes(frames[0] + skipped + frames[1] + frames[2])
    assert len(list(Corpus.from_files(file))) == 3000
    writer = zstandard.ZstdCompressor().compressobj()  # one that can be read as far as it was flushed
    whole = writer.compress(lines[0]) + writer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    file.write_bytes(whole)
    with pytest.raises(CorpusError, match="it was cut"):
        list(Corpus.from_files(file))


def test_what_a_little_file_unfolds_to_is_not_held_at_once(tmp_path):
    """Beside the line that is read; a process of its own, whose memory at most is known."""
    import zstandard

    file = tmp_path / "bomb.jsonl.zst"
    lines = b'{"text": "a"}\n' * 2**16
    writer = zstandard.ZstdCompressor().compressobj()
    file.write_bytes(b"".join(writer.compress(lines) for _ in range(400)) + writer.flush())
    code = f"""
import resource
from itda import Corpus
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
next(iter(Corpus.from_files({str(file)!r})._read()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 100 * 2**10, "KiB more, of 360 MiB that are in it"


def test_a_dataset_of_several_splits_gives_the_one_that_is_named():
    import datasets

    several = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")})
    assert [document.text for document in Corpus.from_dataset(several, split="test")] == ["test"]
    assert [document.text for document in Corpus.from_dataset(several)] == ["train"]
    with pytest.raises(CorpusError, match="no split 'dev' here; there are train, test"):
        Corpus.from_dataset(several, split="dev")
