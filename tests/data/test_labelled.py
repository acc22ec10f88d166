import json

import pytest

from itda.data.labelled import read_labelled
from itda.errors import CorpusError

FOUND = (["a, text", "zwei\nlines"], ["1", "yes"])


def test_every_kind_of_file(tmp_path):
    entries = [{"text": "a, text", "label": 1}, {"text": "zwei\nlines", "label": "yes"}]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, entries)))
    (tmp_path / "a.csv").write_text('label,text\n1,"a, text"\nyes,"zwei\nlines"\n')
    (tmp_path / "a.tsv").write_text('label\ttext\n1\ta, text\nyes\t"zwei\nlines"\n')
    for name in ("a.json", "a.jsonl", "a.csv", "a.tsv"):
        assert read_labelled(tmp_path / name) == FOUND
        marked = tmp_path / f"marked_{name}"  # as spreadsheets write it
        marked.write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
        assert read_labelled(marked) == FOUND


def test_fields_have_names(tmp_path, data):
    texts, labels = read_labelled(
        data / "labelled" / "facts" / "facts_true_false.csv", text_field="statement", label_field="label"
    )
    assert len(texts) == len(labels) == 612
    assert set(labels) == {"0", "1"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"text": "a"}', "not a list"),
        ("a.json", b'[{"text": "a"}]', "Entry 1 .* no 'label'; it has 'text'"),
        ("a.json", b'["a"]', "Entry 1"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text"', "cannot be read"),
        ("a.json", b'[{"text": 3, "label": 1}]', "that is no text"),
        ("a.csv", b"text,label\na", "Entry 1"),
        ("a.csv", b"text,label\n\xff,1", "cannot be read"),
        ("a.txt", b"a", "come in"),
    ],
)
def test_what_is_no_table_of_labels(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_labelled(tmp_path / name)


def test_a_missing_file(tmp_path):
    with pytest.raises(CorpusError, match="cannot be read"):
        read_labelled(tmp_path / "none.csv")
