import numpy as np
import pytest
import torch

from itda import Coding, Corpus, build, build_from_activations, build_many, capture
from itda.building import BuildRequest
from itda.building.greedy import GreedyBuilder
from itda.building.options import GreedyOptions
from itda.building.paper import PaperBuilder
from itda.data.sources import Sources
from itda.errors import ActivationError, BackendError, CorpusError, ModelError, OptionError, ShapeError
from itda.pursuit import pursue
from support.paper_rule import paper_atoms
from support.signals import coherent

TEXTS = [f"{'word ' * (7 * number % 23)}number {number}, a text of its own." for number in range(30)]


def make(rows, **options):
    return build_from_activations(rows, progress=False, **options)


@pytest.fixture(scope="module")
def rows():
    return coherent(3000, 32, 1)[0]


@pytest.mark.parametrize("method", ["greedy", "paper"])
def test_every_atom_is_a_real_row_with_its_source(rows, method):
    options = {"max_cosine_gap": 0.01} if method == "paper" else {}
    dictionary = make(rows, atoms=200, steps=4, method=method, **options)
    assert len(dictionary) == 200
    taken = [source.row for source in dictionary.sources]
    expected = torch.nn.functional.normalize(rows[taken] - dictionary.mean, dim=1)
    assert torch.allclose(dictionary.atoms, expected, atol=1e-6)
    assert len(set(taken)) == 200


def test_the_size_is_what_was_asked_for(rows):
    for size in (4, 17, 256, 999):
        assert len(make(rows, atoms=size, steps=4)) == size
    assert len(make(rows)) == min(8 * 32, 3000 // 4)


def test_fewer_rows_than_expected_make_no_difference_to_the_size(rows):
    builder = BuildRequest(atoms=300, steps=4).builder(32, rows=4000)  # a quarter of them are sinks, say
    builder.update(rows, Sources.of_rows(len(rows)))
    dictionary = builder.finish()
    assert len(dictionary) == 300
    assert dictionary.build.notes == ()


def test_atoms_come_from_all_of_the_rows(rows):
    taken = torch.tensor([source.row for source in make(rows, atoms=100, steps=4).sources])
    assert torch.histc(taken.float(), bins=5, min=0, max=3000).min() >= 15


def test_a_threshold_instead_of_a_size(rows):
    sizes = []
    for threshold in (0.5, 0.3, 0.15):
        dictionary = make(rows, max_unexplained=threshold, steps=4)
        codes = dictionary.encode(rows)
        # More atoms may, rarely, lead a pursuit astray; as good as no row stays above the threshold.
        assert (codes.unexplained > threshold + 1e-4).float().mean() < 0.01
        assert dictionary.build.threshold > threshold
        sizes.append(len(dictionary))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert len(make(rows, max_unexplained=0.15, atoms=50, steps=4)) == 50


def test_near_duplicates_in_one_block_are_not_both_taken():
    generator = torch.Generator().manual_seed(1)
    distinct = torch.randn(20, 16, generator=generator)
    rows = distinct.repeat(5, 1) + 1e-4 * torch.randn(100, 16, generator=generator)
    dictionary = make(rows, max_unexplained=0.01, steps=1, block=100, center=False)
    assert len(dictionary) == 20
    assert (dictionary.atoms @ dictionary.atoms.T - torch.eye(20)).abs().max() < 0.99


def test_the_worst_row_comes_first():
    rows = torch.eye(8)
    rows[5] = torch.tensor([3.0, 4.0, 0, 0, 0, 0, 0, 0])
    dictionary = make(rows[[0, 1, 5, 2]], max_unexplained=0.1, steps=2, center=False)
    # rows 0 and 1 explain row 5 exactly; all are equally unexplained at first, and go by arrival
    assert [source.row for source in dictionary.sources] == [0, 1, 3]


@pytest.mark.parametrize("options", [{"atoms": 150}, {"max_unexplained": 0.2}])
def test_how_rows_arrive_makes_no_difference(model, rows, monkeypatch, options):
    monkeypatch.setattr("itda.building.blocks.SAMPLE_ROWS", 200)
    found = capture(model, Corpus.from_texts(TEXTS), "resid_post.1", progress=False)
    sources = Sources.concatenate([found.sources] * 2).select(torch.arange(3000))
    wanted = BuildRequest(steps=4, **options)
    whole = wanted.builder(32, len(rows))
    whole.update(rows, sources)
    pieces = wanted.builder(32, len(rows))
    for start in range(0, len(rows), 37):
        places = torch.arange(start, min(start + 37, len(rows)))
        pieces.update(rows[places], sources.select(places))
    one, other = whole.finish(), pieces.finish()
    assert torch.equal(one.token_means.offsets, other.token_means.offsets)
    assert torch.equal(one.token_means.overall, other.token_means.overall)
    assert list(one.sources) == list(other.sources)
    assert torch.equal(one.atoms, other.atoms)
    assert torch.equal(one.usage_counts, other.usage_counts)
    assert one.facts() == other.facts()


@pytest.mark.parametrize(
    "options",
    [{"atoms": 150, "method": "greedy"}, {"atoms": 150, "method": "paper", "max_cosine_gap": 0.1, "block": 256}],
)
@pytest.mark.parametrize("stop", [10, 900, 2999])
def test_a_build_goes_on_from_its_state(model, rows, options, stop, tmp_path):
    found = capture(model, Corpus.from_texts(TEXTS), "resid_post.1", progress=False)
    sources = Sources.concatenate([found.sources] * 2).select(torch.arange(3000))
    wanted = BuildRequest(steps=4, **options)

    def feed(builder, start, end):
        for at in range(start, end, 100):
            places = torch.arange(at, min(at + 100, end))
            builder.update(rows[places], sources.select(places))

    straight = wanted.builder(32, 3000)
    feed(straight, 0, stop)
    state = {name: value.clone() for name, value in straight.state().items()}
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    feed(straight, stop, 3000)
    resumed = wanted.builder(32, 3000)
    resumed.restore(state)
    feed(resumed, stop, 3000)
    one, other = straight.finish(), resumed.finish()
    assert torch.equal(one.atoms, other.atoms)
    assert list(one.sources) == list(other.sources)
    assert one.facts() == other.facts()
    assert torch.equal(one.token_means.offsets, other.token_means.offsets)
    assert torch.equal(straight.prepared.gram.matrix, resumed.prepared.gram.matrix)
    folders = [made.save_pretrained(tmp_path / str(place)) for place, made in enumerate((one, other))]
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name


@pytest.mark.parametrize(("steps", "gap", "block"), [(8, 0.15, 1000), (4, 0.05, 256), (16, 0.02, 4096)])
def test_paper_mode_is_the_published_rule(llama, stories, steps, gap, block):
    """On real activations, exactly the rows that a plain transcription picks, in the same order."""
    some = Corpus.from_texts([document.text for document in stories][:40])
    found = capture(llama, some, "resid_post.2", tokens=2500, progress=False)
    width = found.rows.shape[1]
    expected = paper_atoms(found.rows.double().numpy(), 600, steps, block, 2 * gap / width)
    dictionary = make(found, atoms=600, steps=steps, method="paper", max_cosine_gap=gap, block=block)
    assert [source.row for source in dictionary.sources] == expected
    assert len(expected) > width  # the threshold had its say
    assert dictionary.mean.abs().max() == 0


def test_paper_mode_takes_frequent_rows_first_and_passes_zeros_over():
    base = torch.eye(6)
    rows = torch.cat([base[[3]], torch.zeros(4, 6), base[[0, 1, 1, 2, 2, 2]]])
    dictionary = make(rows, method="paper", max_cosine_gap=0.1, steps=1)
    assert [source.row for source in dictionary.sources] == [8, 6, 0, 5]


def test_the_mean_is_taken_off_and_put_back(rows):
    shifted = rows + 50
    dictionary = make(shifted, atoms=150, steps=8)
    assert torch.allclose(dictionary.mean, shifted.mean(0), atol=1e-3)
    missed = (dictionary.decode(dictionary.encode(shifted)) - shifted).square().sum()
    assert missed / (shifted - shifted.mean(0)).square().sum() < 0.1
    assert make(shifted, atoms=150, steps=8, center=False).mean.abs().max() == 0


def test_usage_is_counted_on_the_build_rows(rows):
    dictionary = make(rows, atoms=100, steps=4)
    codes = dictionary.encode(rows)
    assert torch.equal(dictionary.usage_counts, codes.usage(100))
    energy = codes.to_dense(100).square().sum(0)
    assert torch.allclose(dictionary.usage_energy, energy, rtol=1e-4)
    assert dictionary.build.unexplained == pytest.approx(float(codes.unexplained.mean()), abs=1e-5)


def test_build_captures_and_remembers(model):
    corpus = Corpus.from_texts(TEXTS)
    train, held_out = corpus.split()
    dictionary = build(model, train, site="resid_post.1", atoms=64, tokens=400, progress=False)
    by_hand = make(capture(model, train, "resid_post.1", tokens=400, progress=False), atoms=64)
    assert torch.equal(dictionary.atoms, by_hand.atoms)
    assert (dictionary.site, dictionary.model_id, dictionary.build.rows) == ("resid_post.1", "LlamaForCausalLM", 400)
    assert set(dictionary.documents) <= set(train.ids)
    assert not set(dictionary.documents) & set(held_out.ids)
    assert dictionary.coding.asked == Coding(steps=4, most=8, method="omp", nonnegative=True)
    token = dictionary.token_means.token_ids[0]
    assert dictionary.token_means.counts.sum() == 400
    found = capture(model, train, "resid_post.1", tokens=400, progress=False)
    own = found.rows[found.sources.token_id == token].mean(0)
    assert torch.allclose(dictionary.token_means.of(token[None])[0], own, rtol=0.01, atol=1e-2)


def test_several_sites_in_one_pass_are_each_the_same_alone(model):
    corpus = Corpus.from_texts(TEXTS)
    one = build_many(model, corpus, sites="resid_post.0", atoms=50, progress=False)
    many = build_many(model, corpus, sites=["resid_post.0", "attn_heads.2"], atoms=50, progress=False)
    assert torch.equal(one["resid_post.0"].atoms, many["resid_post.0"].atoms)
    for site, dictionary in many.items():
        alone = build(model, corpus, site=site, atoms=50, progress=False)
        assert torch.equal(alone.atoms, dictionary.atoms)
        assert alone.facts() == dictionary.facts()


def test_the_batch_size_changes_no_byte(model, tmp_path):
    corpus = Corpus.from_texts(TEXTS)
    contents = []
    for size in (1, 7):
        dictionary = build(model, corpus, site="resid_post.1", atoms=64, batch_size=size, progress=False)
        folder = dictionary.save_pretrained(tmp_path / str(size))
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


def test_real_models_give_the_same_dictionary_for_any_batch_size(gpt2, stories, tmp_path):
    some = Corpus.from_texts([document.text for document in stories][:80])
    contents, sources = [], []
    for size in (1, 7):
        dictionary = build(gpt2, some, site="resid_post.3", atoms=128, tokens=2000, batch_size=size, progress=False)
        folder = dictionary.save_pretrained(tmp_path / str(size))
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
        loose = build(
            gpt2, some, site="resid_post.3", atoms=128, tokens=2000, batch_size=size, canonical=False, progress=False
        )
        sources.append(set(loose.sources.keys()))
    assert contents[0] == contents[1]
    for other in sources:
        assert len(other & set(dictionary.sources.keys())) >= 0.99 * len(dictionary)


def test_constant_rows_cannot_make_a_dictionary():
    with pytest.raises(ActivationError, match="have only 0 different ones, fewer than the 4 steps"):
        make(torch.ones(100, 8), atoms=10)


@pytest.mark.parametrize("method", ["budget", "greedy", "kmeans"])
def test_a_row_beside_which_all_others_vanish_is_named_as_the_reason(method):
    rows = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
    rows[17] *= 1e18
    with pytest.raises(ActivationError, match="times as long as most rows: leave the few far longer rows out"):
        make(rows, atoms=50, steps=4, method=method)


def test_a_shortfall_is_said():
    rows = torch.eye(6).repeat(20, 1)
    dictionary = make(rows, atoms=50, steps=4)
    assert len(dictionary) < 50
    assert "of 50 atoms could be taken" in dictionary.build.notes[0]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"atoms": 0}, OptionError, "atoms must be a whole number"),
        ({"atoms": 10.0}, OptionError, "atoms must be a whole number"),
        ({"atoms": 5000}, OptionError, "3,000 rows.*Got atoms=5,000"),
        ({"atoms": 8, "steps": 9}, OptionError, "steps=9 is more than the 8 atoms"),
        ({"atoms": 50, "steps": 0}, OptionError, "steps must be"),
        ({"atoms": 50, "steps": 4, "coding": Coding(steps=4)}, OptionError, "not both"),
        ({"max_unexplained": 0.5, "coding": Coding(steps=4, most=8)}, OptionError, "what K steps leave of any row"),
        ({"atoms": 50, "coding": "mp"}, OptionError, "Coding"),
        ({"max_unexplained": 1.5}, OptionError, "max_unexplained must be a number between 0 and 1"),
        ({"max_unexplained": "low"}, OptionError, "between 0 and 1"),
        ({"atoms": 50, "max_cosine_gap": 0.1}, OptionError, "not an option of method='budget'"),
        ({"atoms": 50, "method": "paper"}, OptionError, "0.154 at width 768"),
        ({"atoms": 50, "method": "paper", "max_unexplained": 0.1}, OptionError, "take method='greedy'"),
        ({"atoms": 50, "method": "magic"}, OptionError, "budget, greedy, mixture, paper"),
        ({"atoms": 50, "block": 0}, OptionError, "block must be"),
        ({"atoms": 50, "size": 3}, OptionError, "There is no option 'size'"),
        ({"atoms": 50, "backend": "quantum"}, OptionError, "backend must be one of"),
    ],
)
def test_bad_options_say_what_was_wanted(rows, options, error, says):
    with pytest.raises(error, match=says):
        make(rows, **options)


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (torch.full((50, 4), float("nan")), ActivationError, "50 of 50 rows"),
        (torch.ones(50), ShapeError, "matrix"),
        (np.array([["a", "b"]]), ShapeError, "numbers"),
        (torch.empty(0, 4), ActivationError, "Got no rows"),
        (torch.empty(4, 0), ShapeError, "at least 1"),
    ],
)
def test_bad_rows_say_what_was_wanted(bad, error, says):
    with pytest.raises(error, match=says):
        make(bad, atoms=10)


def test_build_refuses_what_cannot_be(model):
    with pytest.raises(OptionError, match="There is no option 'colour'. The options are atoms, backend"):
        build(model, Corpus.from_texts(TEXTS), colour=1)
    with pytest.raises(CorpusError, match="ask for fewer"):
        build(model, Corpus.from_texts(TEXTS), tokens=10**6, progress=False)
    with pytest.raises(OptionError, match="memory must be bytes"):
        BuildRequest(memory="5XB")
    with pytest.raises(OptionError, match="build_many"):
        build(model, Corpus.from_texts(TEXTS), site=["resid_post.0"])
    with pytest.raises(ModelError, match=r"itda\.load_model"):
        build("model", Corpus.from_texts(TEXTS))
    assert len(build(model, Corpus.from_texts(["sixteen"]), progress=False)) == 4  # as many as steps, at least
    with pytest.raises(BackendError, match="100,000,000,000,000 x 8 needs"):
        BuildRequest(atoms=10**14, steps=4, method="greedy").builder(8, 10**15)
    with pytest.raises(OptionError, match=r"needs [\d,.]+ GiB, and .* free. Give pool= of fewer rows"):
        BuildRequest(atoms=10**12, steps=4).builder(8, 10**15)
    with pytest.raises(OptionError, match="to take atoms from"):
        build(model, Corpus.from_texts(["short"]), atoms=500, progress=False)


def test_builders_check_their_rows():
    builder = GreedyBuilder(4, Coding(steps=2), GreedyOptions(atoms=3, expected_rows=10))
    with pytest.raises(ShapeError, match="width 4"):
        builder.update(torch.ones(2, 5), Sources.of_rows(2))
    with pytest.raises(ShapeError, match="2 rows and 3 sources"):
        builder.update(torch.ones(2, 4), Sources.of_rows(3))
    with pytest.raises(OptionError, match="expected_rows"):
        GreedyOptions(atoms=3)
    with pytest.raises(OptionError, match="a size or a threshold"):
        GreedyOptions()
    assert PaperBuilder.method == "paper"


def test_rows_of_extreme_norm_become_unit_atoms():
    rows = torch.cat([1e-20 * torch.eye(4), 1e20 * torch.eye(4)[:2] + 1e19])
    dictionary = make(rows, max_unexplained=0.5, steps=1, center=False)
    assert torch.allclose(dictionary.atoms.norm(dim=1), torch.ones(len(dictionary)), atol=1e-5)
    assert torch.isfinite(pursue(rows, dictionary.atoms, steps=1).unexplained).all()


@pytest.mark.parametrize("method", [{}, {"method": "paper", "max_cosine_gap": 0.02, "block": 64}])
def test_a_build_with_hardly_any_memory_takes_the_same_atoms(method):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 6, generator=generator) @ torch.randn(6, 24, generator=generator)
    rows += 0.3 * torch.randn(400, 24, generator=generator)
    built = [build_from_activations(rows, atoms=80, steps=4, memory=memory, **method) for memory in (None, 12_000, 0)]
    for other in built[1:]:
        assert [source.row for source in other.sources] == [source.row for source in built[0].sources]
        assert other.facts() == built[0].facts() or abs(other.build.unexplained - built[0].build.unexplained) < 1e-5
