import pytest
import torch

from itda.data.sources import Sources, Window
from itda.errors import FormatError, ShapeError
from itda.shown import printable

A, B = "aa" * 16, "bb" * 16


def example() -> Sources:
    columns = [[0, 1, 2], [0, 0, 1], [2, 5, 10], [5, 5, 13], [7, 0, 9], [0, -1, 3]]
    row, window, start, end, token_id, index = map(torch.tensor, columns)
    windows = (Window(A, 0, "a cat sat"), Window(B, 10, "dög\nran"))
    return Sources(row, window, start, end, token_id, index, windows, {0: "<s>"})


def test_a_source_shows_token_and_context():
    cat, special, dog = example()
    assert (cat.token, cat.text) == ("cat", "a [cat] sat")
    assert (special.token, special.token_index) == ("<s>", -1)
    assert (dog.document, dog.token, dog.char_start, dog.window_start) == (B, "dög", 10, 10)
    assert dog.text == "…[dög]↵ran"
    assert dog.to_dict()["text"] == dog.text


def test_keys_name_a_token_across_models():
    assert example().keys() == [(A, 5), (A, 5), (B, 13)]


def test_rows_of_a_bare_array_have_numbers_only():
    sources = Sources.of_rows(3, first=4)
    assert [source.row for source in sources] == [4, 5, 6]
    assert sources[1].text == "row 5"
    assert not sources.named
    with pytest.raises(ShapeError, match="cannot be matched"):
        sources.keys()


def test_selection_keeps_only_the_windows_it_needs():
    chosen = example().select(torch.tensor([2]))
    assert len(chosen.windows) == 1
    assert chosen[0] == example()[2]


def test_parts_share_their_windows_when_joined():
    whole = Sources.concatenate([example(), example().select(torch.tensor([0])), Sources.of_rows(1)])
    assert len(whole.windows) == 2
    assert list(whole)[:3] == list(example())
    assert whole[3] == example()[0]
    assert whole[4].document is None


def test_tensors_and_back():
    again = Sources.from_tensors(example().to_tensors())
    assert list(again) == list(example())
    empty = Sources.concatenate([])
    assert len(Sources.from_tensors(empty.to_tensors())) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window", torch.tensor([0, 0, 2])),
        ("char_end", torch.tensor([1])),
        ("window_text_length", torch.tensor([9, 99])),
        ("window_text", torch.full((17,), 255, dtype=torch.uint8)),
    ],
)
def test_damaged_columns_are_refused(name, value):
    with pytest.raises(FormatError, match="damaged"):
        Sources.from_tensors(example().to_tensors() | {name: value})


def test_no_text_can_drive_a_terminal():
    assert printable("a\x1b[31mb\u202ec\nd\te") == "a·[31mb·c↵d·e"


def test_an_index_outside_is_refused():
    with pytest.raises(IndexError, match="3 sources"):
        example()[3]
    assert example()[-1] == example()[2]
