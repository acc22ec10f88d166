"""Damaged and forged files, found by their coverage of the loaders: none may crash, hang or ask for much memory.

python tests/support/fuzz.py 100000
"""

import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["itda.data", "itda.pursuit.codes"]):
    from itda.data.dictionary import Dictionary

import torch

from support import hostile, uses

_TIMES, _SLACK = 8, 96 * 2**20  # of the file; what an interpreter and its allocators take now and then
_LARGE_ROWS = 20_000  # of 256 numbers: 20 MB
_SECONDS = 20


class Drawn(random.Random):
    """Random decisions that are read from given bytes, so that a fuzzer can change one of them."""

    def __init__(self, content: bytes) -> None:
        self._provider = atheris.FuzzedDataProvider(content)
        super().__init__()

    def seed(self, *_: object) -> None:
        """Nothing: the bytes say it all."""

    def getrandbits(self, count: int) -> int:
        """So many bits."""
        return int.from_bytes(self._provider.ConsumeBytes((count + 7) // 8).ljust((count + 7) // 8, b"\0")) % 2**count

    def random(self) -> float:
        """A number from 0 to 1."""
        return self.getrandbits(53) / 2**53


@contextmanager
def little_memory(folder: Path) -> Iterator[None]:
    """Let allocations fail that take this process beyond eight times what is in the folder."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    there = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (there + _TIMES * size + _SLACK, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def main(runs: int) -> None:
    torch.set_num_threads(1)
    home = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    originals = uses.originals(home / "small")
    kinds = sorted(uses.USES)
    for kind in kinds:  # whatever is loaded or compiled at the first use
        uses.USES[kind](originals / kind)

    def one(content: bytes) -> None:
        kind = kinds[content[0] % len(kinds)] if content else kinds[0]
        use: Callable[[Path], None] = uses.USES[kind]
        # Half of them follow the bytes one by one, half take them for a seed and go further afield
        drawn = Drawn(content[1:]) if not content or content[0] < 128 else random.Random(content[1:])
        with little_memory(originals / kind):
            hostile.attack(originals / kind, home / "copy", use, drawn)

    large = uses.large(home / "large", _LARGE_ROWS)
    Dictionary.from_pretrained(large)
    for seed in range(runs // 100):
        with little_memory(large):
            hostile.attack(large, home / "copy", Dictionary.from_pretrained, random.Random(seed))
    print(
        f"{runs // 100:,} attacks on a dictionary of 20 MB: every one ended in an answer or an error of ours",
        flush=True,
    )
    options = [
        f"-runs={runs - runs // 100}",
        "-max_len=400",
        "-len_control=0",
        f"-timeout={_SECONDS}",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options], one)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
