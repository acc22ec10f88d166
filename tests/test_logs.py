import json
import time
import warnings

import pytest
from typer.testing import CliRunner

import itda
from itda import logs
from itda.adapters import tensorboard, wandb
from itda.cli import app
from itda.errors import MissingExtraError, OptionError
from itda.steer import affine
from support import tiny

TEXTS = itda.Corpus.from_texts(tiny.KINGS)


class Kept:
    """A log of our own."""

    def __init__(self):
        self.told, self.done, self.closed = [], {}, 0

    def progress(self, task, done, total):
        self.done[task] = (done, total)

    def metrics(self, name, values, step):
        self.told.append((name, values, step))

    def close(self):
        self.closed += 1


def test_a_log_is_told_of_progress_and_numbers(model):
    log = Kept()
    train, held_out = TEXTS.split(held_out=0.3)
    with itda.logging_to(log):
        assert logs.is_heard()
        dictionary = itda.build(model, train, site="resid_post.1", atoms=24, progress=False)
        report = itda.evaluate(dictionary, model, held_out, progress=False)
        itda.evaluate(dictionary, model, held_out, progress=False)
        itda.build_from_activations(dictionary.activations, atoms=8, steps=2, progress=False)
    assert not logs.is_heard()
    assert log.closed == 1
    names = [(name, step) for name, _, step in log.told]
    assert names == [
        ("build/resid_post.1", 0), ("evaluate/resid_post.1", 0), ("evaluate/resid_post.1", 1), ("build/rows", 0)
    ]  # fmt: skip
    assert log.told[0][1]["atoms"] == 24
    assert log.told[1][1]["fvu"] == report.fvu
    done, total = log.done["build"]
    assert done == total
    assert log.done["evaluate"][0] == log.done["evaluate"][1]
    itda.evaluate(dictionary, model, held_out, progress=False)
    assert len(log.told) == 4  # nobody listens any more


def test_training_tells_its_losses(model):
    log = Kept()
    with itda.logging_to(log):
        affine.fit(model, ["a good king", "the good queen"], ["bad", "so bad"], steps=3, progress=False)
    losses = [(name, step) for name, values, step in log.told if values["loss"] >= 0]
    assert losses == [("maps", 0), ("maps", 1), ("maps", 2)]


def test_a_log_that_fails_loses_nothing(model):
    class Broken(Kept):
        def metrics(self, name, values, step):
            raise OSError("the disk is full")

    broken, kept = Broken(), Kept()
    with itda.logging_to(broken, kept):
        with pytest.warns(logs.LogWarning, match=r"Broken failed.*the disk is full"):
            itda.build(model, TEXTS, site="resid_post.1", atoms=8, progress=False)
        itda.build(model, TEXTS, site="resid_post.1", atoms=8, progress=False)
    assert len(kept.told) == 2
    for bad in (None, print, "runs/log"):
        with pytest.raises(OptionError, match="A log has the methods"), itda.logging_to(bad):
            pass


def test_logs_within_logs_are_all_told(model):
    outer, inner = Kept(), Kept()
    with itda.logging_to(outer):
        with itda.logging_to(inner):
            logs.metrics("x", {"a": 1, "b": None})
        logs.metrics("x", {"a": 2})
    assert (outer.told, inner.told) == ([("x", {"a": 1.0}, 0), ("x", {"a": 2.0}, 1)], [("x", {"a": 1.0}, 0)])
    assert (outer.closed, inner.closed) == (1, 1)


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with itda.logging_to(tensorboard.Log(tmp_path / "log")):
        logs.metrics("evaluate/resid_post.1", {"fvu": 0.25})
        logs.metrics("evaluate/resid_post.1", {"fvu": 0.125})
        logs.progress("build", 3, 4)
    read = EventAccumulator(str(tmp_path / "log"))
    read.Reload()
    found = [(event.step, event.value) for event in read.Scalars("evaluate/resid_post.1/fvu")]
    assert found == [(0, 0.25), (1, 0.125)]
    assert read.Scalars("progress/build")[0].value == 75


def without_headers(log):
    """What is in a file of wandb's: blocks of 32 KB, through which a record, or a name in it, may be cut."""
    found, place = [], 7
    while place < len(log):
        left = 32768 - place % 32768
        length = int.from_bytes(log[place + 4 : place + 6], "little") if left >= 7 else 0
        found.append(log[place + 7 : place + 7 + length])
        place += 7 + length if left >= 7 else left
    return b"".join(found)


def test_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    with itda.logging_to(wandb.Log("itda-test", dir=str(tmp_path))):
        logs.metrics("evaluate/resid_post.1", {"fvu": 0.25})
        logs.progress("build", 3, 4)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (written,) = run.glob("*.wandb")
    wanted = (b"evaluate/resid_post.1/fvu", b"progress/build")
    until = time.monotonic() + 30  # a process of wandb's own writes it, and a busy machine lets that wait
    while not all(name in without_headers(written.read_bytes()) for name in wanted):
        assert time.monotonic() < until
        time.sleep(0.1)
    with pytest.raises(OptionError, match="mode"):
        wandb.Log("itda-test", mode="sometimes")


def test_on_the_command_line(tmp_path, model):
    folder = tmp_path / "model"
    model.module.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    (tmp_path / "t.json").write_text(json.dumps(tiny.KINGS))
    arguments = [
        "build",
        str(folder),
        "--corpus",
        str(tmp_path / "t.json"),
        "--atoms",
        "16",
        "--out",
        str(tmp_path / "d"),
    ]
    done = CliRunner().invoke(app, ["--log", f"tensorboard:{tmp_path / 'log'}", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "log").glob("events*"))
    for named in ("tensorboard:", "mlflow:x", "x"):
        refused = CliRunner().invoke(app, ["--log", named, "sites"])
        assert refused.exit_code == 2
        assert "A log is named" in refused.output


def test_without_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with warnings.catch_warnings(), pytest.raises(MissingExtraError, match="'logs'"):
        tensorboard.Log(tmp_path)
    with pytest.raises(MissingExtraError, match="'logs'"):
        wandb.Log("p")
