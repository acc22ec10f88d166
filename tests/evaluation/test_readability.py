import json
from dataclasses import replace

import pytest
import torch

from itda import Activations, Coding, Corpus, build_from_activations, capture, read_atoms
from itda.data.sources import Sources, Window
from itda.errors import ActivationError, OptionError
from itda.evaluation.examples import examples_of

WIDTH = 12
CODING = Coding(steps=1)


@pytest.fixture(scope="module")
def planted(model):
    """Activations of one token, whose direction is set by the word before it, `red` or `green`, or by chance."""
    generator = torch.Generator().manual_seed(0)
    corpus = Corpus.from_texts(["a text"])
    shown = capture(model, corpus, "resid_post.1", progress=False)
    directions = torch.eye(WIDTH)
    rows, windows = [], []
    for number in range(400):
        word = ("red", "green", "blue", "blue")[number % 4]
        text = f"document {number} has a {word} x"
        windows.append(Window(f"{number:032x}", 0, text))
        by_chance = int(torch.randint(2, (), generator=generator))
        own = directions[number % 2] if number % 4 < 2 else directions[2 + by_chance]
        rows.append(5 * own + 0.01 * torch.randn(WIDTH, generator=generator))
    ends = torch.tensor([len(window.text) for window in windows])
    sources = Sources(
        torch.arange(400), torch.arange(400), ends - 1, ends, torch.full((400,), 7), torch.full((400,), 3),
        tuple(windows), {},
    )  # fmt: skip
    return Activations(torch.stack(rows), sources, shown.provenance, tuple(window.document for window in windows))


@pytest.fixture(scope="module")
def dictionary(planted):
    # Four rows, one of each direction, are the atoms
    kinds = planted.rows.argmax(1)
    first = torch.tensor([int(torch.nonzero(kinds == kind)[0, 0]) for kind in range(4)])
    few = replace(planted, rows=planted.rows[first], sources=planted.sources.select(first))
    return build_from_activations(few, atoms=4, coding=CODING, method="random", center=False, progress=False)


def test_what_the_text_says_is_read_and_what_it_does_not_is_not(planted, dictionary):
    found = read_atoms(dictionary, planted, atoms=10)
    read = {int(dictionary.atoms[one.atom].argmax()): one for one in found.atoms}
    assert set(read) == {0, 1, 2, 3}
    for direction in (0, 1):
        assert read[direction].context > 0.95
        assert read[direction].source > 0.95
        assert read[direction].lift > 0.45
    for direction in (2, 3):  # told from the others, but not from each other
        assert read[direction].context < 0.9
    # One token for all, so that it says nothing
    assert all(one.token == one.context_token == 0.5 for one in found.atoms)
    assert found.energy_shown == pytest.approx(1.0)
    assert found.negative_energy == 0.0
    assert found.lift == pytest.approx(sum(one.lift for one in found.atoms) / 4)
    low, high = found.intervals["lift"]
    assert low <= found.lift <= high
    assert "lift over the token" in str(found)
    assert json.loads(json.dumps(found.to_json()))["means"]["lift"] == found.lift


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_codes_that_follow_a_coin_cannot_be_read(planted, share):
    generator = torch.Generator().manual_seed(3)
    count = 6000
    words = [f"w{number}" for number in range(40)]
    windows, drawn = [], torch.randint(40, (count, 8), generator=generator).tolist()
    for number, places in enumerate(drawn):
        text = " ".join(words[place] for place in places) + " x"
        windows.append(Window(f"{number // 20:032x}", number, text))  # twenty rows a document
    ends = torch.tensor([len(window.text) for window in windows])
    place = torch.arange(count)
    sources = Sources(
        place, place, ends - 1, ends, torch.full((count,), 7), torch.full((count,), 3), tuple(windows), {}
    )
    heads = torch.rand(count, generator=generator) < share
    rows = torch.where(heads[:, None], torch.eye(WIDTH)[0], torch.eye(WIDTH)[1]) * 5
    rows += 0.01 * torch.randn(count, WIDTH, generator=generator)
    flipped = Activations(rows, sources, planted.provenance, tuple({window.document for window in windows}))
    two = torch.tensor([int(torch.nonzero(heads)[0, 0]), int(torch.nonzero(~heads)[0, 0])])
    few = replace(flipped, rows=rows[two], sources=sources.select(two))
    dictionary = build_from_activations(few, atoms=2, coding=CODING, method="random", center=False, progress=False)
    found = [read_atoms(dictionary, flipped, examples=150, seed=seed).lift for seed in range(4)]
    assert abs(sum(found) / 4) < 0.05


def test_the_same_seed_reads_the_same(planted, dictionary):
    assert read_atoms(dictionary, planted, seed=1) == read_atoms(dictionary, planted, seed=1)


def test_examples_are_what_they_are_said_to_be(gpt2, data):
    corpus = Corpus.from_files(data / "text" / "wikitext_1000.json")
    rows = capture(gpt2, corpus, "resid_post.3", tokens=4000, progress=False)
    dictionary = build_from_activations(rows, atoms=256, steps=8, progress=False)
    codes = dictionary.encode(rows)
    found, shown = examples_of(rows, codes, folds=3, atoms=20, count=30, least=5, seed=0)
    assert len(found) == 20
    assert len({one.atom for one in found}) == 20
    assert 0 < shown < 1
    tokens, windows = rows.sources.token_id, rows.sources.windows
    for one in found:
        having = (codes.atoms == one.atom).any(1)
        assert 5 <= len(one.using) == len(one.alike) == len(one.others) <= 30
        assert bool(having[one.using].all())
        assert not bool(having[one.alike].any())
        assert not bool(having[one.others].any())
        assert torch.equal(tokens[one.using], tokens[one.alike])
        for rows_of in (one.using, one.alike, one.others):
            assert len(set(rows_of.tolist())) == len(one.using)
        kinds = (one.using, one.alike, one.others)
        documents = [[windows[int(rows.sources.window[row])].document for row in kind.tolist()] for kind in kinds]
        for number in range(3):
            here = [name for kind in documents for name, fold in zip(kind, one.fold, strict=True) if fold == number]
            rest = [name for kind in documents for name, fold in zip(kind, one.fold, strict=True) if fold != number]
            assert not set(here) & set(rest)
    with pytest.raises(ActivationError, match="Give more text"):
        examples_of(rows, codes, folds=3, atoms=20, count=30, least=5000, seed=0)


def test_what_cannot_be_read_is_refused(planted, dictionary):
    with pytest.raises(ActivationError, match="itda.capture"):
        read_atoms(dictionary, planted.rows)
    with pytest.raises(OptionError, match="examples must be"):
        read_atoms(dictionary, planted, examples=5)
    with pytest.raises(OptionError, match="Dictionary"):
        read_atoms(None, planted)
    few = replace(planted, rows=planted.rows[:10], sources=planted.sources.select(torch.arange(10)))
    with pytest.raises(ActivationError, match="Give more text"):
        read_atoms(dictionary, few)
    with pytest.raises(OptionError, match="atoms must be"):
        read_atoms(dictionary, planted, atoms=0)
