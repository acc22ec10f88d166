"""Kill a run at random moments, run it again to its end, and compare every byte with an undisturbed run.

python tests/support/torture.py 100
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from itda import Corpus, Dictionary, Store, build, build_from_activations, load_model

ITDA = (sys.executable, "-m", "itda")
SAVE = """
import sys
from itda import Dictionary
one, other, out = sys.argv[1:]
both = [Dictionary.from_pretrained(one), Dictionary.from_pretrained(other)]
for turn in range(40):
    both[turn % 2].save_pretrained(out, overwrite=True)
"""


@dataclass
class Victim:
    """Something that writes into a folder, and what must hold while it lies dead."""

    command: Callable[[Path], list[str]]
    check_dead: Callable[[Path], None] = lambda folder: None
    seconds: float = 0.0
    """How long it takes undisturbed."""
    expected: dict[str, str] = field(default_factory=dict)
    """Path -> hash of what it leaves."""


def run(command: list[str], *, kill_after: float | None = None) -> bool:
    """Run a command to its end, or kill it without warning; whether it came to its end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, start_new_session=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        _, said = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode and b"exists. Choose another folder" not in said:  # it had come to its end before it died
        raise AssertionError(f"{' '.join(command)}\n{said.decode()}")
    return True


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder; locks are empty and may stay."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def victims(home: Path, *, share: float = 1.0) -> dict[str, Victim]:
    """What is killed, with all of its work or a share of it; `home` gets what they need to be there."""

    def tokens(all_of_it: int) -> str:
        return str(round(share * all_of_it))

    one, other, store = home / "one", home / "other", home / "store"
    # Of the embedded corpus, which takes seconds to read, only a part
    texts = [document.text for document in islice(Corpus.embedded(), 0, 800, 5)]
    (home / "texts.json").write_text(json.dumps(texts))
    corpus = ["--corpus", str(home / "texts.json")]
    run([*ITDA, "capture", *corpus, "--tokens", tokens(20000), "--site", "resid_post.2", "--out", str(store)])
    for folder, atoms in ((one, 300), (other, 200)):
        stored = Store(store).open()
        build_from_activations(stored, atoms=atoms, steps=4, progress=False).save_pretrained(folder)
    for part in (0, 1):
        own = Corpus.from_texts(texts).parts(2)[part]
        build(
            load_model(),
            own,
            site="resid_post.2",
            tokens=int(tokens(9000)),
            atoms=int(tokens(900)),
            method="greedy",
            progress=False,
        ).save_pretrained(home / f"part {part}")

    def one_of_the_two(folder: Path) -> None:
        if (folder / "saved").exists():
            assert len(Dictionary.from_pretrained(folder / "saved")) in (300, 200)

    often = ["--every", "0"]
    sites = ["--site", "resid_post.1", "--site", "resid_post.2"]
    capture = [*ITDA, "capture", *corpus, *sites, *often]
    building = [*ITDA, "build", *often]
    return {
        "capture": Victim(lambda folder: [*capture, "--tokens", tokens(20000), "--out", str(folder / "store")]),
        "capture from disk": Victim(
            lambda folder: [*capture, "--tokens", tokens(9000), "--device", "disk", "--out", str(folder / "store")]
        ),
        "build": Victim(
            lambda folder: [
                *building,
                *corpus,
                "--tokens",
                tokens(12000),
                "--atoms",
                "400",
                "--out",
                str(folder / "built"),
            ]
        ),
        "build from a store": Victim(
            lambda folder: [*building, "--store", str(store), "--atoms", "400", "--out", str(folder / "built")]
        ),
        "merge": Victim(
            lambda folder: [
                *ITDA,
                "merge",
                str(home / "part 0"),
                str(home / "part 1"),
                "--atoms",
                tokens(900),
                "--store",
                str(store),
                "--out",
                str(folder / "merged"),
            ]
        ),
        "build on workers": Victim(
            lambda folder: [
                *building,
                *corpus,
                "--tokens",
                tokens(8000),
                "--atoms",
                "300",
                "--shards",
                "2",
                "--workers",
                "2",
                "--out",
                str(folder / "built"),
            ]
        ),
        "save": Victim(
            lambda folder: [sys.executable, "-c", SAVE, str(one), str(other), str(folder / "saved")], one_of_the_two
        ),
    }


class Outcome(NamedTuple):
    deaths: int
    differing: set[str]
    """Files that are not as they are when nothing happens."""


def kill(victim: Victim, folder: Path, random_: random.Random, *, most: int = 3) -> Outcome:
    """Kill until it comes to its end, or so often."""
    deaths = 0
    if not victim.expected:
        undisturbed = folder.with_name(f"{folder.name} undisturbed")
        undisturbed.mkdir()
        started = time.monotonic()
        run(victim.command(undisturbed))
        victim.seconds, victim.expected = time.monotonic() - started, contents(undisturbed)
    while deaths < most and not run(victim.command(folder), kill_after=random_.uniform(0.3, 1.0) * victim.seconds):
        deaths += 1
        victim.check_dead(folder)
    if deaths == most:
        run(victim.command(folder))
    left = contents(folder)
    differing = {name for name in {*left, *victim.expected} if left.get(name) != victim.expected.get(name)}
    return Outcome(deaths, differing)


def main(kills: int) -> None:
    seed = random.SystemRandom().randrange(10**6)
    random_ = random.Random(seed)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as home:
        found = victims(Path(home))
        deaths = dict.fromkeys(found, 0)
        while sum(deaths.values()) < kills:
            name = min(deaths, key=lambda name: deaths[name])
            with tempfile.TemporaryDirectory(dir=home) as folder:
                died, differing = kill(found[name], Path(folder), random_)
                deaths[name] += died
                if differing:
                    sys.exit(f"{name}: after {died} kills these differ: {sorted(differing)} (seed {seed})")
            print(f"{sum(deaths.values())} kills: {deaths}", flush=True)
    print(f"every result was that of the undisturbed run (seed {seed})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
