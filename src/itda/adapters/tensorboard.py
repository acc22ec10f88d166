"""TensorBoard as a log: `itda.logging_to(tensorboard.Log("runs/log"))`, then `tensorboard --logdir runs/log`."""

from collections.abc import Mapping
from pathlib import Path

from itda.data.drafts import refused
from itda.errors import MissingExtraError


class Log:
    """Numbers as scalars, by name; progress as the share that is done, in percent of each task."""

    def __init__(self, folder: str | Path) -> None:
        """Begin a log in a folder, beside those that are in it.

        Raises: MissingExtraError without the extra `logs`; OutputError if it cannot be written.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("A log for TensorBoard", "logs") from error
        try:
            self._writer = SummaryWriter(str(folder))
        except OSError as error:
            raise refused(Path(folder), error) from error
        self._reports = 0

    def progress(self, task: str, done: float, total: float | None) -> None:
        """See `itda.logs.Log`."""
        if total:
            self._writer.add_scalar(f"progress/{task}", 100 * done / total, self._reports)
            self._reports += 1

    def metrics(self, name: str, values: Mapping[str, float], step: int) -> None:
        """See `itda.logs.Log`."""
        for key, value in values.items():
            self._writer.add_scalar(f"{name}/{key}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """See `itda.logs.Log`."""
        self._writer.close()
