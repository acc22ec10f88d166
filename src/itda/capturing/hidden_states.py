"""Hidden states of a whole corpus on disk, one record for each forward pass, all of one shape."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from itda.data.drafts import refused
from itda.errors import OutputError


class HiddenStates:
    """A file of records that is appended to once and read in any order."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Open it, or begin it; a record that was cut off is taken off.

        Raises: OutputError.
        """
        self.path, self._shape, self._dtype = path, shape, dtype
        self._bytes = int(np.prod(shape)) * dtype.itemsize
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("r+b" if path.exists() else "w+b")
            self._count = path.stat().st_size // self._bytes
            self._file.truncate(self._count * self._bytes)
        except OSError as error:
            raise refused(path, error) from error

    def __len__(self) -> int:
        return self._count

    def append(self, record: Tensor) -> None:
        """Write the next record.

        Raises: OutputError if the disk is full.
        """
        try:
            self._file.seek(self._count * self._bytes)
            self._file.write(record.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise refused(self.path, error) from error
        self._count += 1

    def read(self, place: int) -> Tensor:
        """A record.

        Raises: OutputError if it is not there.
        """
        self._file.seek(place * self._bytes)
        content = bytearray(self._file.read(self._bytes))
        if len(content) < self._bytes:
            raise OutputError(f"{self.path} has no record {place}: it was cut. Remove it, and run the command again.")
        return torch.frombuffer(content, dtype=torch.uint8).view(self._dtype).reshape(self._shape)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
