"""A disk that is really full, and one that cannot be written: it is said, and nothing is lost."""

import os
import subprocess

import pytest

import itda
from itda.errors import OutputError
from support import tiny
from support.torture import contents

CORPUS = [f"{text} {number}" * 8 for number in range(12) for text in tiny.KINGS]
SMALL, LARGE = "512k", "64m"


def mount(*arguments):
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A disk of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", place):
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture(scope="module")
def corpus():
    return itda.Corpus.from_texts(CORPUS)


def test_a_capture_that_fills_the_disk_goes_on(disk, model, corpus, tmp_path):
    def capture(folder):
        return itda.capture(model, corpus, "resid_post.1", store=folder, every=0.05, tokens=9000, progress=False)

    capture(tmp_path / "undisturbed")
    with pytest.raises(OutputError, match="No space is left on the disk of .*free some space and run again"):
        capture(disk / "store")
    entry = itda.Store(disk / "store").entries()[0]
    assert not entry.complete
    assert not entry.problems()
    assert mount("-o", f"remount,size={LARGE}", disk)
    capture(disk / "store")
    assert contents(disk / "store") == contents(tmp_path / "undisturbed")


def test_a_build_that_fills_the_disk_goes_on(disk, model, corpus, tmp_path):
    options = {"site": "resid_post.1", "atoms": 900, "tokens": 6000, "steps": 4, "progress": False}
    expected = itda.build(model, corpus, **options)
    with pytest.raises(OutputError, match="No space is left"):
        itda.build(model, corpus, checkpoint=disk / "checkpoint", every=0.05, **options)
    assert mount("-o", f"remount,size={LARGE}", disk)
    built = itda.build(model, corpus, checkpoint=disk / "checkpoint", every=0.05, **options)
    assert built.fingerprint == expected.fingerprint


def test_what_was_saved_stays_where_there_is_no_room_for_more(disk, model, corpus):
    small, large = (
        itda.build(model, corpus, site="resid_post.1", atoms=atoms, tokens=6000, steps=4, progress=False)
        for atoms in (50, 800)
    )
    small.save_pretrained(disk / "saved")
    before = contents(disk)
    free = os.statvfs(disk)
    (disk / "ballast").write_bytes(b"0" * (free.f_bavail * free.f_bsize - 60_000))
    with pytest.raises(OutputError, match="No space is left"):
        large.save_pretrained(disk / "saved", overwrite=True)
    (disk / "ballast").unlink()
    assert contents(disk) == before
    assert itda.Dictionary.from_pretrained(disk / "saved").fingerprint == small.fingerprint


def test_a_folder_that_cannot_be_written_can_be_read(disk, model, corpus):
    options = {"tokens": 3000, "progress": False}
    stored = itda.capture(model, corpus, "resid_post.1", store=disk / "store", **options)
    built = itda.build_from_activations(stored, atoms=50, steps=4, progress=False)
    built.save_pretrained(disk / "built")
    assert mount("-o", "remount,ro", disk)
    opened = itda.Store(disk / "store").open()
    assert not opened.problems()
    assert itda.build_from_activations(opened, atoms=50, steps=4, progress=False).fingerprint == built.fingerprint
    assert itda.Dictionary.from_pretrained(disk / "built").fingerprint == built.fingerprint
    for write in (
        lambda: built.save_pretrained(disk / "other"),
        lambda: built.save_pretrained(disk / "built", overwrite=True),
        lambda: itda.capture(model, corpus, "resid_post.0", store=disk / "store", **options),
        lambda: itda.Store(disk / "another", create=True),
        lambda: itda.Store(disk / "store").prune([opened.name]),
        lambda: itda.build(model, corpus, atoms=50, checkpoint=disk / "checkpoint", **options),
    ):
        with pytest.raises(OutputError, match=r"(?i)cannot be written: read-only file system.*choose another folder"):
            write()
    assert not itda.Store(disk / "store").open().problems()
