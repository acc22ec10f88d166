"""What the parts of one run leave in a folder: a second run of the same finds what is finished, and does the rest."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from itda.data import checkpoints, files, locks
from itda.data.build_records import library_versions
from itda.data.drafts import refused
from itda.errors import ClusterError, FormatError, MismatchError, OutputError

_KIND, _PART = "parts", "part"
Result = TypeVar("Result")


class Results:
    """A folder for the results of parts. Use it as a context: it holds the folder against other processes."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Nothing is written yet.

        Args:
            folder: where; every worker must be able to write there.
            run: what makes it the same run, as plain values: another run is refused.
        """
        self.folder = folder.resolve()
        self._run: dict[str, Any] = files.to_plain({**run, "versions": library_versions()})
        self._open = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refused(self.folder, error) from error
        self._open.enter_context(locks.held(self.folder))
        try:
            if (self.folder / files.MANIFEST).exists():
                there = files.read_manifest(self.folder, _KIND)
                with files.parsing(self.folder):
                    run = dict(there["run"])
                checkpoints.check_same_run(run, self._run, self.folder)
            elif any(not path.name.startswith(".") for path in self.folder.iterdir()):  # locks and drafts are ours
                raise OutputError(
                    f"{self.folder} holds something else than parts of a run. Choose another folder, or remove it."
                )
            else:
                files.write_manifest(self.folder, _KIND, {"run": self._run})
        except (FormatError, MismatchError, OutputError):
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def missing(self, numbers: Sequence[int]) -> list[int]:
        """Those of the parts that are not finished."""
        return [number for number in numbers if not is_finished(place_of_part(self.folder, number))]


def place_to_write(folder: Path, number: int) -> Path:
    """Where a worker leaves the result of a part.

    Raises: ClusterError if it does not see the folder that the others use.
    """
    if not (folder / files.MANIFEST).exists():
        raise ClusterError(
            f"A worker does not find {folder}. Give a folder on storage that is the same for all machines."
        )
    return place_of_part(folder, number)


def loaded(folder: Path, number: int, load: Callable[[Path], Result]) -> Result:
    """The result of a part.

    Raises: FormatError if it is damaged; the part then counts as not finished.
    """
    place = place_of_part(folder, number)
    try:
        return load(place)
    except FormatError as error:
        (place / files.MANIFEST).unlink(missing_ok=True)
        raise FormatError(f"{error} The same command makes part {number + 1} again.") from error


def place_of_part(folder: Path, number: int) -> Path:
    """Where the result of a part is."""
    return folder / f"part-{number:05d}"


def is_finished(place: Path) -> bool:
    """Whether all of a part's result is there."""
    try:
        facts(place)
    except FormatError:
        return False
    return True


def facts(place: Path) -> dict[str, Any]:
    """What a finished part has said of its result.

    Raises: FormatError.
    """
    return files.read_manifest(place, _PART)


def finish(place: Path, said: Mapping[str, Any]) -> None:
    """Say that all of a part's result is there, and let go of what was needed to get there.

    Raises: OutputError.
    """
    files.write_manifest(place, _PART, said)
    shutil.rmtree(place / CHECKPOINT, ignore_errors=True)


CHECKPOINT = "checkpoint"
"""Of a part that is being worked on, in its place."""
