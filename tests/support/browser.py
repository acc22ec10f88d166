"""A real browser, and the viewer on a port of this machine."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from itda.view.server import Opener, application
from itda.view.shelf import Shelf

_NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip


def executable() -> str:
    """The browser of this machine; without one the test is skipped, or fails where ITDA_REQUIRE_BROWSER is set."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        message = "There is no chromium on this machine, so no page is looked at. Install it: apt-get install chromium"
        if os.environ.get("ITDA_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextmanager
def serving(shelf: Shelf, opener: Opener) -> Iterator[str]:
    """The address of a viewer that runs in this process."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    config = uvicorn.Config(application(shelf, opener), log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()
