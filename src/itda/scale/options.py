"""How work is spread over processes or machines."""

import os
from dataclasses import dataclass

from itda.errors import OptionError
from itda.options import in_python, is_number, whole


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """How work is spread; only `shards` has an influence on results."""

    shards: int = 8
    """Parts that the text is cut into. The same number gives the same result, however many workers share them."""
    workers: int | None = None
    """Parts that are worked on at once; by default as many as the processors allow."""
    address: str | None = None
    """A Ray cluster: `host:port` of its head, `ray://host:port`, or `auto` for the one this machine belongs to;
    None starts workers on this machine."""
    cpus: int = 1
    """Processors, and threads, of each worker."""
    gpus: float = 0
    """GPUs of each worker; 0.5 lets two share one."""
    retries: int = 3
    """How often a part is begun again, or gone on with, after its worker died."""

    def __post_init__(self) -> None:
        in_python(self)
        whole("shards", self.shards)
        whole("cpus", self.cpus)
        whole("retries", self.retries, least=0)
        if self.workers is not None:
            whole("workers", self.workers)
            if self.workers > self.shards:
                raise OptionError(
                    f"{self.shards} shards keep at most {self.shards} workers busy. Got workers={self.workers}; ask "
                    f"for as many shards, or a few times more."
                )
        if not is_number(self.gpus) or not 0 <= self.gpus < 1024:
            raise OptionError(f"gpus must be a number of at least 0. Got {self.gpus!r} instead.")
        if self.address is not None and not isinstance(self.address, str):
            raise OptionError(f"address must be text such as 'auto' or '10.0.0.1:6379'. Got {self.address!r} instead.")

    @property
    def local_workers(self) -> int:
        """Workers on this machine, if nothing else is said."""
        return self.workers or max(1, min(self.shards, (os.cpu_count() or 1) // self.cpus))
