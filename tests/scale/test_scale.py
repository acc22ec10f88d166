"""Work on many workers: real Ray, real processes, and results that do not depend on them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import psutil
import pytest
import ray
import torch

import itda
from itda import scale
from itda.errors import (
    ClusterError,
    CorpusError,
    FormatError,
    MismatchError,
    MissingExtraError,
    ModelError,
    OptionError,
    OutputError,
)
from itda.models.fingerprints import DifferentSettingsWarning
from itda.scale import results
from itda.scale.cluster import connected
from itda.scale.options import ScaleOptions
from support import tiny
from support.torture import contents

BUILD = {"site": "resid_post.2", "atoms": 128, "steps": 4, "tokens": 6000, "shards": 4, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def _workers():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def text(stories):
    return itda.Corpus.from_texts([document.text for document in stories][:120])


@pytest.fixture(scope="module")
def name(data):
    return data / "models" / "stories260k"


@pytest.fixture(scope="module")
def built(name, text, tmp_path_factory):
    """The dictionary that one worker makes, and where its parts are."""
    folder = tmp_path_factory.mktemp("built")
    dictionary = scale.build(name, text, workers=1, folder=folder / "parts", **BUILD)
    return dictionary, dictionary.save_pretrained(folder / "saved"), folder / "parts"


def test_any_number_of_workers_gives_the_same_bytes(name, text, built, tmp_path):
    _, expected, _ = built
    again = scale.build(name, text, workers=3, **BUILD)
    assert contents(again.save_pretrained(tmp_path / "3")) == contents(expected)


def test_it_is_the_merge_of_the_parts(llama, text, built):
    dictionary, _, folder = built
    parts = [itda.Dictionary.from_pretrained(folder / f"part-{part:05d}" / "resid_post.2") for part in range(4)]
    alone = itda.build(llama, text.parts(4)[1], tokens=1500, atoms=64, steps=4, site="resid_post.2", progress=False)
    assert parts[1].fingerprint == alone.fingerprint
    assert set(dictionary.sources.keys()) <= set().union(*(part.sources.keys() for part in parts))
    assert dictionary.provenance.corpus == text.fingerprint
    assert dictionary.provenance.part is None
    assert dictionary.provenance.capture["tokens"] == 6000
    assert sorted(dictionary.documents) == sorted(text.ids)


def test_a_killed_worker_changes_nothing(name, text, built, tmp_path):
    killed, ended = [], threading.Event()

    def kill() -> None:
        """Kill whoever works, two of them, once a state of a part is there that could be lost."""
        while len(killed) < 2 and not ended.wait(0.02):
            begun = list((tmp_path / "parts").glob("part-*/checkpoint/*/itda.json"))
            for process in psutil.process_iter(["cmdline"]) if begun else ():
                if (process.info["cmdline"] or [""])[0].startswith("ray::_do") and process.pid not in killed:
                    process.kill()
                    killed.append(process.pid)
                    break

    thread = threading.Thread(target=kill)
    thread.start()
    again = scale.build(name, text, workers=2, folder=tmp_path / "parts", every=0, retries=5, **BUILD)
    ended.set()
    thread.join()
    assert len(killed) == 2
    assert contents(again.save_pretrained(tmp_path / "saved")) == contents(built[1])


def test_finished_parts_are_not_made_again(name, text, built, tmp_path):
    _, expected, folder = built
    copy = shutil.copytree(folder, tmp_path / "parts")
    shutil.rmtree(copy / "part-00002")
    before = {path: path.stat().st_ino for path in copy.rglob("*") if path.is_file()}
    again = scale.build(name, text, workers=2, folder=copy, **BUILD)
    assert {path: path.stat().st_ino for path in before} == before
    assert results.is_finished(copy / "part-00002")
    assert contents(again.save_pretrained(tmp_path / "saved")) == contents(expected)
    with pytest.raises(MismatchError, match="belongs to another run: .*tokens was 6000, is 5000"):
        scale.build(name, text, folder=copy, **{**BUILD, "tokens": 5000})


def test_a_damaged_part_is_made_again(name, text, built, tmp_path):
    _, expected, folder = built
    copy = shutil.copytree(folder, tmp_path / "parts")
    damaged = copy / "part-00001" / "resid_post.2" / "dictionary.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(FormatError, match="The same command makes part 2 again"):
        scale.build(name, text, folder=copy, **BUILD)
    again = scale.build(name, text, folder=copy, **BUILD)
    assert contents(again.save_pretrained(tmp_path / "saved")) == contents(expected)


def test_other_weights_under_the_same_name_are_another_run(name, text, tmp_path):
    copy = shutil.copytree(name, tmp_path / "model")
    options = {**BUILD, "tokens": 400, "atoms": 20, "shards": 2, "folder": tmp_path / "parts"}
    before = scale.build(copy, text, **options)
    module = itda.load_model(copy).module
    module.model.embed_tokens.weight.data *= 2
    module.save_pretrained(copy)
    with pytest.raises(MismatchError, match="weights was"):
        scale.build(copy, text, **options)
    after = scale.build(copy, text, **{**options, "folder": None})
    assert after.fingerprint != before.fingerprint


def test_a_capture_in_parts_reads_as_one(name, llama, text, tmp_path):
    options = {"tokens": 4000, "shards": 3, "progress": False}
    joined = scale.capture(name, text, "resid_post.2", store=tmp_path / "store", workers=2, **options)
    assert len(joined) == 4000
    store = itda.Store(tmp_path / "store")
    there = contents(tmp_path / "store")
    scale.capture(name, text, "resid_post.2", store=store, workers=1, **options)
    assert contents(tmp_path / "store") == there
    scale.capture(name, text, "resid_post.2", store=tmp_path / "alone", workers=1, **options)
    assert contents(tmp_path / "alone") == there
    opened = store.open("resid_post.2")
    assert opened.fingerprint == joined.fingerprint
    alone = itda.capture(llama, text.parts(3, tokens=4000)[1], "resid_post.2", tokens=1333, progress=False)
    first = len(opened.parts[0])
    assert torch.equal(opened.rows[first : first + 1333], alone.rows)
    assert opened.sources.row.tolist() == list(range(4000))
    assert opened.sources[first + 7].text == alone.sources[7].text
    assert torch.equal(next(opened.blocks(500, first=first + 5)).rows, opened.rows[first + 5 : first + 505])

    serial = itda.build_from_activations(opened, atoms=100, steps=4, progress=False)
    assert serial.provenance.corpus == text.fingerprint
    one, two = (scale.build_stored(opened, atoms=100, steps=4, workers=workers, progress=False) for workers in (1, 2))
    assert one.fingerprint == two.fingerprint
    assert len(one) == 100
    assert one.build.method == "merge"
    with pytest.raises(OptionError, match="in one piece"):
        scale.build_stored(opened.parts[0], atoms=100)
    shutil.rmtree(opened.parts[1].folder)
    with pytest.raises(OptionError, match="not complete"):
        store.open()
    assert len(store.open(entry=opened.parts[0].name)) == first


def test_captures_in_parts_stand_side_by_side(name, text, tmp_path):
    for tokens, seed in ((600, 0), (900, 0), (600, 1)):
        scale.capture(
            name, text, ["resid_post.1", "resid_post.2"], store=tmp_path / "store", tokens=tokens, shards=2, seed=seed,
            progress=False,
        )  # fmt: skip
    store = itda.Store(tmp_path / "store")
    assert len(store.entries()) == 12
    with pytest.raises(OptionError, match="has 3 captures with site 'resid_post.1'"):
        store.open("resid_post.1")


def test_evaluation_in_parts_is_evaluation(name, llama, stories, text, built, tmp_path):
    dictionary, _, _ = built
    held_out = itda.Corpus.from_texts([document.text for document in stories][100:140])
    options = {"tokens": None, "resamples": 50, "progress": False}
    serial = itda.evaluate(dictionary, llama, held_out, **options)
    many = scale.evaluate(dictionary, name, held_out, shards=3, folder=tmp_path / "parts", **options)
    assert many.excluded_documents == serial.excluded_documents == 20
    for score in ("fvu", "residual_fvu", "delta_ce", "ce_score", "kl", "l0", "cosine", "loss", "tokens"):
        assert getattr(many, score) == pytest.approx(getattr(serial, score), rel=1e-5), score
    for quantile, value in serial.unexplained.items():
        assert many.unexplained[quantile] == pytest.approx(value, rel=1e-4)
    assert many.atoms_never_used == serial.atoms_never_used
    assert many.baselines["token mean"].fvu == pytest.approx(serial.baselines["token mean"].fvu, rel=1e-5)
    assert many.intervals["fvu"] == pytest.approx(serial.intervals["fvu"], rel=0.1)
    for workers, folder in ((1, None), (3, tmp_path / "parts")):
        again = scale.evaluate(dictionary, name, held_out, shards=3, folder=folder, workers=workers, **options)
        assert again.to_json() == many.to_json()


def test_codes_in_parts_are_the_codes(name, llama, text, built):
    dictionary, _, _ = built
    few = itda.Corpus.from_texts([document.text for document in text][:20])
    many, alone = (scale.encode(dictionary, name, few, shards=3, workers=count, progress=False) for count in (2, 1))
    assert torch.equal(many.codes.coefficients, alone.codes.coefficients)
    serial = itda.encode(dictionary, llama, few, progress=False)
    assert len(many) == len(serial)
    assert many.sources.row.tolist() == list(range(len(many)))
    place = {key: row for row, key in enumerate(serial.sources.keys())}
    order = torch.tensor(list(map(place.__getitem__, many.sources.keys())))
    assert torch.equal(many.codes.atoms, serial.codes.atoms[order])
    assert torch.allclose(many.codes.coefficients, serial.codes.coefficients[order], atol=1e-4)
    assert len(scale.encode(dictionary, name, few, tokens=301, shards=3, progress=False)) == 301


def test_a_threshold_instead_of_a_size(name, text, tmp_path):
    options = {**BUILD, "atoms": None, "max_unexplained": 0.3}
    dictionary = scale.build(name, text, **options, folder=tmp_path / "parts")
    parts = [itda.Dictionary.from_pretrained(path) for path in tmp_path.glob("parts/part-*/resid_post.2")]
    assert len(parts) == 4
    assert max(map(len, parts)) < len(dictionary) < sum(map(len, parts))
    assert dictionary.build.threshold >= 0.3
    several = scale.build_many(name, text, sites=["resid_post.1", "resid_post.2"], tokens=900, shards=1, progress=False)
    assert list(several) == ["resid_post.1", "resid_post.2"]
    assert len(several["resid_post.1"]) == 900 // 4


def test_a_model_as_it_is_is_sent():
    model = itda.wrap(tiny.module("Llama"), tiny.tokenizer())
    corpus = itda.Corpus.from_texts([text * 2 for text in tiny.KINGS])
    options = {"atoms": 40, "steps": 4, "site": "resid_post.1", "progress": False}
    sent = scale.build(model, corpus, shards=2, **options)
    parts = [itda.build(model, part, **options) for part in corpus.parts(2)]
    assert set(sent.sources.keys()) <= set().union(*(part.sources.keys() for part in parts))
    assert sent.provenance.model == model.record


def test_what_goes_wrong_in_a_worker_is_said_here(name, text):
    with connected(ScaleOptions(shards=2, retries=1)) as cluster:
        with pytest.raises(ClusterError, match="worker of part 1 died 2 times.*the same command goes on"):
            list(cluster.map(lambda number: os.kill(os.getpid(), signal.SIGKILL), [0]))
        with pytest.raises(ZeroDivisionError):
            list(cluster.map(lambda number: 1 / number, [0]))

        def warn(number: int) -> int:
            warnings.warn("another precision", DifferentSettingsWarning, stacklevel=1)
            warnings.warn("of somebody else", stacklevel=1)
            return number

        with pytest.warns(UserWarning, match="Part 2: another precision") as said:
            assert list(cluster.map(warn, [1])) == [(1, 1)]
        assert len(said) == 1
        with pytest.raises(OptionError, match="cannot be sent to other processes"):
            list(cluster.map(threading.Lock(), [0]))

        def missing(number: int) -> None:
            raise MissingExtraError("This", "scale")

        with pytest.raises(MissingExtraError, match=r"This needs the extra 'scale'"):
            list(cluster.map(missing, [0]))
    with pytest.raises(ModelError, match="no folder"):
        scale.build("./nowhere", text, shards=2, progress=False)
    with pytest.raises(OptionError, match="more than the 2 atoms"):
        scale.build(name, text, site="resid_post.2", steps=4, atoms=2, shards=1, tokens=500, progress=False)
    with pytest.raises(OptionError, match="their atoms have no names"):
        scale.build(name, text, atoms=20, method="learned", shards=2, tokens=500, progress=False)


def test_what_cannot_be_spread(name, text, tmp_path, monkeypatch):
    for options, says in (
        ({"shards": 0}, "shards must be a whole number"),
        ({"workers": 9}, "8 shards keep at most 8 workers busy"),
        ({"workers": 1.5}, "workers must be a whole number"),
        ({"gpus": -1}, "gpus must be a number"),
        ({"retries": -1}, "retries must be a whole number"),
        ({"address": 5}, "address must be text"),
        ({"nonsense": 1}, "There is no option 'nonsense'"),
        ({"tokens": 3}, "tokens must be a whole number of at least 8"),
    ):
        with pytest.raises(OptionError, match=says):
            scale.build(name, text, site="resid_post.2", progress=False, **options)
    with pytest.raises(CorpusError, match="Got tokens=1,000,000"):
        scale.build(name, text, site="resid_post.2", tokens=10**6, progress=False)
    with pytest.raises(CorpusError, match="120 documents, too few for 200 parts"):
        scale.build(name, text, shards=200, progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        scale.build(name, text, folder=tmp_path / "file", **BUILD)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="holds something else than parts of a run"):
        scale.build(name, text, folder=tmp_path / "mine", **BUILD)
    for options, error, says in (
        ({"cpus": 4096}, ClusterError, "No machine of the cluster has 4096 processors"),
        ({"gpus": 64}, ClusterError, "and 64 GPUs"),
        ({"address": "auto"}, OptionError, "connected to Ray already"),
        ({"steps": 9, "atoms": 8}, OptionError, "more than the 8 atoms"),
        ({"method": "paper", "max_cosine_gap": 0.1, "atoms": None}, OptionError, "Give atoms=, or build without"),
        ({"tokens": 1e4}, OptionError, "tokens must be"),
        ({"load": {"device": "warp"}}, ModelError, "There is no device 'warp'"),
    ):
        with pytest.raises(error, match=says):
            scale.build(name, text, **{**BUILD, **options})
    with pytest.raises(CorpusError, match="needs an itda.Corpus. Got list"):
        scale.build(name, ["text"], **BUILD)
    with pytest.raises(OptionError, match="Got a model, and load="):
        scale.build(itda.load_model(name), text, load={"dtype": "float32"}, **BUILD)
    for wrong in (scale.encode, scale.evaluate):
        with pytest.raises(OptionError, match="needs an itda.Dictionary"):
            wrong("runs/l2", name, text)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'itda\[scale\]'"):
        scale.build(name, text, **BUILD)


def test_a_cluster_that_does_not_answer(name, text, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    connection = ray.is_initialized
    ray.is_initialized = lambda: False
    try:
        for address in (nobody, f"ray://{nobody}"):
            with pytest.raises(ClusterError, match="does not answer"):
                scale.build(name, text, address=address, folder=tmp_path / "parts", **BUILD)
        for address in ("nonsense", "http://127.0.0.1:80/", "10.0.0.1:99999999"):
            with pytest.raises((OptionError, ClusterError), match="address must be host:port"):
                scale.build(name, text, address=address, folder=tmp_path / "parts", **BUILD)
    finally:
        ray.is_initialized = connection


CLIENT = """
import sys
import itda
from itda import scale
name, text, address, out = sys.argv[1:]
options = dict(site="resid_post.2", atoms=128, steps=4, tokens=6000, shards=4, progress=False)
built = scale.build(name, itda.Corpus.from_files(text), address=address, folder=out + ".parts", **options)
built.save_pretrained(out)
"""


@pytest.mark.long
def test_a_cluster_by_its_address(name, text, built, tmp_path):
    """A head and a worker as `ray start` makes them, in processes of their own."""
    (tmp_path / "text.json").write_text(json.dumps([document.text for document in text]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    link = Path(tempfile.mkdtemp(dir="/tmp")) / "ray"  # the address of a socket must be short
    link.symlink_to(tmp_path)
    head = subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
            "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={link}",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        address = f"{ray.util.get_node_ip_address()}:{port}"
        client = [sys.executable, "-c", CLIENT, name, tmp_path / "text.json", address, tmp_path / "out"]
        for _ in range(20):
            found = subprocess.run(list(map(str, client)), capture_output=True, text=True, timeout=120, check=False)
            if "does not answer" not in found.stderr:
                break
            time.sleep(1)
        assert not found.returncode, found.stderr
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended with another
                process.kill()
        head.wait(30)
        link.unlink()
        link.parent.rmdir()
    saved = itda.Dictionary.from_pretrained(tmp_path / "out")
    assert saved.fingerprint == built[0].fingerprint
