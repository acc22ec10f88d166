"""The viewer on a port of this machine."""

import contextlib
import errno
import ipaddress
import socket
import threading
import time
import webbrowser
from collections.abc import Callable

import uvicorn

from itda.errors import OptionError
from itda.view.server import LOCAL, Opener, application
from itda.view.shelf import Shelf


def serve(
    shelf: Shelf, opener: Opener, say: Callable[[str], None], *, host: str = LOCAL[0], port: int = 8765,
    browser: bool = True,
) -> None:  # fmt: skip
    """Answer until interrupted.

    Args:
        shelf: what is shown.
        opener: loads dictionary and model when a page first needs them.
        say: told the address; one that others can reach holds a token.
        host, port: where; port 0 for any that is free.
        browser: open the address in the browser.
    Raises: OptionError if the port is in use or the address is not one of this machine.
    """
    bound = _bound(host, port)
    app = application(shelf, opener, host=host)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    name = f"[{shown}]" if ":" in shown else shown
    address = f"http://{name}:{bound.getsockname()[1]}/"
    if host not in LOCAL:
        address += f"?token={app.state.token}"
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    say(f"itda view: {address}   (Ctrl-C ends it)")
    if browser:
        threading.Thread(target=_open, args=(server, address, say), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen()  # whoever is told the address may ask at once
    except (OSError, OverflowError) as error:
        bound.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            said = f"Port {port} is in use, perhaps by another itda view. Choose another with --port, or 0 for any."
            raise OptionError(said) from error
        raise OptionError(f"Cannot answer at {host}:{port}: {error}. Choose another --host or --port.") from error
    return bound


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _open(server: uvicorn.Server, address: str, say: Callable[[str], None]) -> None:
    while not server.started and not server.should_exit:
        time.sleep(0.05)
    with contextlib.suppress(webbrowser.Error):
        if not webbrowser.open(address):
            say("No browser could be opened; open the address yourself.")
