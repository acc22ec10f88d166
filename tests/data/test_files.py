"""Folders are written whole or not at all, and every damage is found."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from itda.data import drafts, files
from itda.errors import FormatError, OutputError

FACTS = {"name": "x", "numbers": [1, 2.5, None]}
CONTENT = {"arrays": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1], dtype=torch.int64)}}


@pytest.fixture
def folder(tmp_path):
    return files.write_folder(tmp_path / "saved", "thing", FACTS, CONTENT)


def test_what_is_read_is_what_was_written(folder):
    facts, tensors = files.read_folder(folder, "thing")
    assert facts["numbers"] == FACTS["numbers"]
    assert torch.equal(tensors["arrays"]["a"], CONTENT["arrays"]["a"])
    assert sorted(path.name for path in folder.parent.iterdir()) == ["saved"]


def test_every_flipped_byte_is_found(folder):
    for path in folder.iterdir():
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 60)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(FormatError):
                files.read_folder(folder, "thing")
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(FormatError, match="damaged"):
                files.read_folder(folder, "thing")
        path.write_bytes(whole)
    files.read_folder(folder, "thing")


def test_missing_files_are_named(folder):
    (folder / "arrays.safetensors").unlink()
    with pytest.raises(FormatError, match=r"arrays\.safetensors is missing"):
        files.read_folder(folder, "thing")
    (folder / "itda.json").unlink()
    with pytest.raises(FormatError, match=r"has no itda\.json"):
        files.read_folder(folder, "thing")
    with pytest.raises(FormatError, match="There is no folder"):
        files.read_folder(folder / "nowhere", "thing")


def test_a_newer_version_asks_for_an_upgrade(folder):
    manifest = json.loads((folder / "itda.json").read_text())
    (folder / "itda.json").write_text(json.dumps({**manifest, "version": 99, "new": True}))
    with pytest.raises(FormatError, match="version 99; this itda reads up to 1. Upgrade"):
        files.read_folder(folder, "thing")


def test_another_kind_is_refused(folder):
    with pytest.raises(FormatError, match="holds 'itda.thing', not 'itda.dictionary'"):
        files.read_folder(folder, "dictionary")


def test_a_file_name_cannot_leave_the_folder(folder, tmp_path):
    manifest = json.loads((folder / "itda.json").read_text())
    del manifest["checksum"]
    manifest["files"] = {"../outside.safetensors": "0" * 64}
    (folder / "itda.json").write_bytes(files._manifest_bytes(manifest))
    with pytest.raises(FormatError, match="none of ours"):
        files.read_folder(folder, "thing")


def test_an_existing_folder_is_kept_unless_told(folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OutputError, match="exists. Choose another folder, or overwrite"):
        files.write_folder(folder, "thing", {}, CONTENT)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    files.write_folder(folder, "thing", {"new": 1}, CONTENT, overwrite=True)
    assert files.read_folder(folder, "thing")[0]["new"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_an_interrupt_between_the_renames_loses_nothing(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real, calls = type(folder).rename, []

    def interrupt_the_second(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(type(folder), "rename", interrupt_the_second)
    monkeypatch.setattr(drafts, "_exchange", lambda one, other: False)  # as on a system that cannot swap two names
    with pytest.raises(KeyboardInterrupt):
        files.write_folder(folder, "thing", {"new": 1}, CONTENT, overwrite=True)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def test_drafts_of_dead_processes_are_cleared_away_and_no_others(folder):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = drafts._host()
    for name in (f"{host}-{dead.pid}-abc", f"{host}-{os.getpid()}-abc", "otherhost-1-abc", "mine"):
        (folder.parent / f".saved.{name}").mkdir()
    files.write_folder(folder, "thing", {"new": 1}, CONTENT, overwrite=True)
    left = sorted(path.name for path in folder.parent.iterdir())
    assert left == sorted(["saved", f".saved.{host}-{os.getpid()}-abc", ".saved.otherhost-1-abc", ".saved.mine"])


def test_only_a_folder_of_the_same_kind_and_nothing_else_is_overwritten(folder):
    with pytest.raises(OutputError, match="holds 'itda.thing', not 'itda.other'"):
        files.write_folder(folder, "other", {}, CONTENT, overwrite=True)
    (folder / "notes.md").write_text("mine")
    with pytest.raises(OutputError, match=r"also holds notes\.md"):
        files.write_folder(folder, "thing", {}, CONTENT, overwrite=True)
    assert (folder / "notes.md").read_text() == "mine"


def test_a_link_stays_a_link(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    files.write_folder(link, "thing", {"new": 1}, CONTENT, overwrite=True)
    assert link.is_symlink()
    assert files.read_folder(folder, "thing")[0]["new"] == 1


@pytest.mark.parametrize("number", ["1e999", "NaN", "Infinity"])
def test_numbers_that_json_cannot_hold(folder, number):
    content = (folder / "itda.json").read_text()
    assert "2.5" in content
    (folder / "itda.json").write_text(content.replace("2.5", number))
    with pytest.raises(FormatError, match="damaged"):
        files.read_folder(folder, "thing")


def test_a_foreign_folder_is_never_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="not written by itda"):
        files.write_folder(tmp_path / "mine", "thing", {}, CONTENT, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_half_way_leaves_nothing_and_loses_nothing(folder, tmp_path, monkeypatch, error):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real, calls = os.fsync, []

    def fail_at_the_second_file(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise error
        real(handle)

    monkeypatch.setattr(os, "fsync", fail_at_the_second_file)
    for target, overwrite in ((folder, True), (tmp_path / "new", False)):
        calls.clear()
        with pytest.raises((OutputError, KeyboardInterrupt), match="No space is left|^$"):
            files.write_folder(target, "thing", {"new": 1}, CONTENT, overwrite=overwrite)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real = type(folder).rename

    def fail_for_the_draft(self, target):
        if target == folder and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(type(folder), "rename", fail_for_the_draft)
    monkeypatch.setattr(drafts, "_exchange", lambda one, other: False)
    with pytest.raises(OutputError, match="Input/output error"):
        files.write_folder(folder, "thing", {"new": 1}, CONTENT, overwrite=True)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        files.write_folder(tmp_path / "file" / "folder", "thing", {}, CONTENT)


def test_a_text_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "a" / "report.json"
    files.write_text(path, "first")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OutputError, match="No space is left"):
        files.write_text(path, "second")
    assert path.read_text() == "first"
    assert [found.name for found in path.parent.iterdir()] == ["report.json"]
