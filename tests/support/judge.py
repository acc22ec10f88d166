"""A judge that speaks OpenAI's chat protocol on this machine, and fails when it is told to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str], str]
"""Question -> answer."""


@dataclass
class Service:
    """What was asked, and what the next answers are."""

    answer: Answer
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    failures: list[int | str] = field(default_factory=list)
    """Status codes, or bodies of status 200, that come before any answer."""


@contextmanager
def judge_service(answer: Answer) -> Iterator[Service]:
    """Run it as long as the context lasts."""
    service = Service(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            service.asked.append({"path": self.path, **body})
            service.headers.append(dict(self.headers))
            status, content = 200, ""
            if service.failures:
                failure = service.failures.pop(0)
                status, content = (200, failure) if isinstance(failure, str) else (failure, "not now")
            else:
                message = {"role": "assistant", "content": service.answer(body["messages"][-1]["content"])}
                content = json.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": message}]})
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
