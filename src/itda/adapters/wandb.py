"""Weights & Biases as a log: `itda.logging_to(wandb.Log("project"))`.

Offline unless asked otherwise: nothing leaves the machine before `wandb sync`.
"""

from collections.abc import Mapping
from typing import Any

from itda.errors import MissingExtraError, OutputError
from itda.options import one_of


class Log:
    """Numbers by name, each with a step of its own; progress as the share that is done."""

    def __init__(self, project: str, *, name: str | None = None, mode: Any = "offline", **options: Any) -> None:
        """Begin a run.

        Args:
            project, name: of the run.
            mode: `offline`, or `online`, which needs a login.
            options: of `wandb.init`.
        Raises: MissingExtraError without the extra `logs`; OutputError if wandb does not begin; OptionError.
        """
        one_of("mode", mode, ("offline", "online", "disabled"))
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("A log for Weights & Biases", "logs") from error
        try:
            self._run = wandb.init(project=project, name=name, mode=mode, **options)
        except Exception as error:  # wandb raises its own kinds, which depend on its version
            raise OutputError(f"Weights & Biases does not begin a run: {error}") from error
        self._defined: set[str] = set()

    def progress(self, task: str, done: float, total: float | None) -> None:
        """See `itda.logs.Log`."""
        if total:
            self._run.log({f"progress/{task}": done / total})

    def metrics(self, name: str, values: Mapping[str, float], step: int) -> None:
        """See `itda.logs.Log`."""
        if name not in self._defined:
            self._defined.add(name)
            self._run.define_metric(f"{name}/*", step_metric=f"{name}/step")
        self._run.log({f"{name}/step": step, **{f"{name}/{key}": value for key, value in values.items()}})

    def close(self) -> None:
        """See `itda.logs.Log`."""
        self._run.finish()
