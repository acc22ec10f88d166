"""Files that are not what they should be: damaged, and forged so that every checksum is right again."""

import hashlib
import json
import random
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from itda.data import files
from itda.data.shards import Shard
from itda.errors import ItdaError

ODD = (
    None, True, -1, 0, 1, 2**31, 2**63, -(2**70), 1e308, float("inf"), "", "x", "\u0000", "../../etc/passwd",
    "é" * 50, [], {}, [[]], [None], {"": {}}, [1, "2"], "float32", "__class__", "9" * 400,
)  # fmt: skip


def damage(content: bytes, random_: random.Random) -> bytes:
    """The content with something wrong with it."""
    place, end = (random_.randrange(len(content) + 1) for _ in range(2))
    first, last = sorted((place, end))
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: content[:place],
        lambda: content[:first] + content[last:],
        lambda: content[:place] + random_.randbytes(random_.randrange(1, 9)) + content[place:],
        lambda: content[:first] + content[first:last] * 2 + content[last:],
        lambda: b"",
        lambda: content[:place] + bytes([random_.randrange(256)]) + content[place + 1 :],
        lambda: struct.pack("<Q", random_.choice((0, 1, 2**20, 2**40, 2**63, len(content)))) + content[8:],
    )
    return random_.choice(kinds)()


def odd_json(value: Any, random_: random.Random) -> Any:
    """The value with one part of it replaced, removed or doubled."""
    if isinstance(value, dict) and value and random_.random() < 0.85:
        key = random_.choice(list(value))
        changed = dict(value)
        if random_.random() < 0.15:
            del changed[key]
        else:
            changed[key] = odd_json(value[key], random_)
        return changed
    if isinstance(value, list) and value and random_.random() < 0.7:
        place = random_.randrange(len(value))
        return [*value[:place], odd_json(value[place], random_), *value[place + 1 :]]
    return random_.choice(ODD)


def forge(folder: Path, random_: random.Random) -> None:
    """Change one file of a folder of ours, and most of the time make all checksums right again."""
    path = random_.choice(sorted(item for item in folder.rglob("*") if item.is_file() and item.name != ".lock"))
    if path.name == files.MANIFEST and random_.random() < 0.8:
        try:
            manifest = json.loads(path.read_bytes())
        except ValueError:  # an earlier change has broken it
            return
        manifest = {key: value for key, value in manifest.items() if key != "checksum"}
        forged = odd_json(manifest, random_)
        if isinstance(forged, dict):
            try:
                path.write_bytes(files._manifest_bytes(forged))
            except (ValueError, TypeError):  # infinity is no JSON: written as Python would
                path.write_text(json.dumps(forged))
        return
    path.write_bytes(damage(path.read_bytes(), random_))
    if random_.random() < 0.8:
        sign(path.parent)


def sign(folder: Path) -> None:
    """Make the checksums in a folder right."""
    path = folder / files.MANIFEST
    if not path.exists():
        return
    try:
        manifest = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "checksum"}
        for name in manifest.get("files", {}):
            manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if manifest.get("index") and (folder / "index.jsonl").exists():
            manifest["index"] = hashlib.sha256(resigned_index(folder)).hexdigest()
        path.write_bytes(files._manifest_bytes(manifest))
    except (ValueError, OSError, AttributeError, KeyError, TypeError):  # nothing that could be signed
        return


def resigned_index(folder: Path) -> bytes:
    """The index of a store's entry with the checksums of its shards as they are now; written, and returned."""
    lines = []
    for line in (folder / "index.jsonl").read_bytes().splitlines():
        facts = json.loads(line.split(b"\t")[0])
        content = (folder / facts["file"]).read_bytes()
        lines.append(Shard(**{**facts, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}).line())
    (folder / "index.jsonl").write_bytes(b"".join(lines))
    return b"".join(lines)


def attack(original: Path, folder: Path, load: Callable[[Path], Any], random_: random.Random) -> None:
    """Load a forged copy of a folder; whatever but an error of ours comes out is raised."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        forge(folder, random_)
    with suppress(ItdaError):
        load(folder)
