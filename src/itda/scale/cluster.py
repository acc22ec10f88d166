"""Ray, which runs work on the parts of a corpus in other processes, here or on other machines."""

import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from itda.errors import ClusterError, ItdaError, MissingExtraError, OptionError
from itda.models.loading import first_lines
from itda.scale.options import ScaleOptions

Result = TypeVar("Result")
Work = Callable[[int], Result]
"""What is done for the part of a number; it must be the same for the same number, wherever and however often."""

_CONNECT_SECONDS = 10.0
_STOP_SECONDS = 20.0  # for workers to leave a checkpoint after Ctrl-C


@contextmanager
def connected(options: ScaleOptions) -> Iterator["Cluster"]:
    """Workers, for as long as the context lasts. A connection that the program has made itself is used and left.

    Raises: MissingExtraError without Ray; ClusterError for a cluster that does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("Work on many workers", "scale") from error
    own = not ray.is_initialized()
    if not own and options.address is not None:
        raise OptionError(
            f"This process is connected to Ray already. Leave out address={options.address!r}, or disconnect first "
            "(ray.shutdown())."
        )
    if own:
        _connect(ray, options)
    try:
        yield Cluster(ray, options)
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, options: ScaleOptions) -> None:
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if options.address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unasked
            cpus = options.local_workers * options.cpus
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            _check_answers(options.address)
            ray.init(address=options.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, SystemExit) as error:
        if isinstance(error, ItdaError):
            raise
        raise ClusterError(f"Ray cannot be reached at {options.address or 'this machine'}: {error}") from error


def _check_answers(address: str) -> None:
    """Ray itself waits for minutes before it gives up on an address where nobody is."""
    if address == "auto":
        return
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d{1,5})", address)
    if not found:
        raise OptionError(f"address must be host:port, ray://host:port or auto. Got {address!r} instead.")
    try:
        socket.create_connection((found[1], int(found[2])), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"The cluster at {address} does not answer: {error}. Check that `ray start --head` runs there and that "
            "this machine may reach it."
        ) from error


class Cluster:
    """Workers that are there."""

    def __init__(self, ray: Any, options: ScaleOptions) -> None:
        self._ray, self._options = ray, options
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.machines = len(nodes)
        fitting = [node for node in nodes if node.get("CPU", 0) >= options.cpus and node.get("GPU", 0) >= options.gpus]
        if not fitting:
            raise ClusterError(
                f"No machine of the cluster has {options.cpus} processors and {options.gpus:g} GPUs, which each worker "
                "is to have. Ask for fewer."
            )
        there = int(ray.cluster_resources().get("CPU", 1)) // options.cpus
        self.workers = options.workers or max(1, min(options.shards, there))
        """Parts that are worked on at once."""

    def map(self, work: Work[Result], numbers: Sequence[int]) -> Iterator[tuple[int, Result]]:
        """Do the work for each number, and give what comes of it in the order in which it is ready.

        A worker that dies is replaced; whatever ends this stops the work that is going on.

        Raises: ClusterError if a part was lost more often than it may be; OptionError for work that cannot be sent;
            what the work raises.
        """
        options = self._options
        remote = self._ray.remote(_do).options(
            num_cpus=options.cpus, num_gpus=options.gpus, max_retries=options.retries
        )
        try:
            sent = self._ray.put(work)
        except Exception as error:  # whatever a part of it says that cannot be sent
            raise OptionError(
                f"This cannot be sent to other processes: {first_lines(error)} Give the name or folder of the model "
                "instead of the model itself."
            ) from error
        waiting = list(reversed(numbers))
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    number = waiting.pop()
                    running[remote.remote(sent, number, options.cpus, str(Path.cwd()))] = number
                ready, _ = self._ray.wait(list(running))
                number = running.pop(ready[0])
                yield number, self._result(ready[0], number)
        finally:
            self._stop(list(running))

    def _result(self, ready: Any, number: int) -> Any:
        from ray import exceptions

        try:
            result, said = self._ray.get(ready)
        except exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, ItdaError) else error from None
        except exceptions.RayError as error:
            raise ClusterError(
                f"The worker of part {number + 1} died {self._options.retries + 1} times, the last time because: "
                f"{str(error).strip().splitlines()[0]} What is finished is kept: the same command goes on. If memory "
                "ran out, take fewer workers or more shards."
            ) from error
        for message in said:
            warnings.warn(f"Part {number + 1}: {message}", stacklevel=2)
        return result

    def _stop(self, running: list[Any]) -> None:
        for task in running:
            self._ray.cancel(task)
        if running:
            self._ray.wait(running, num_returns=len(running), timeout=_STOP_SECONDS)


def _do(work: Work[Result], number: int, threads: int, place: str) -> tuple[Result, list[str]]:
    """What a worker runs: the work, and what itda warned of."""
    import torch

    torch.set_num_threads(threads)
    with suppress(OSError):
        os.chdir(place)  # relative paths mean the same as here
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work(number)
    return result, [str(item.message) for item in caught if item.category.__module__.startswith("itda.")]
