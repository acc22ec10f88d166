"""A hub on this machine: the part of the Hugging Face hub's protocol that uploads and downloads need."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories by name, each a dict of path -> content; refuses everyone while `status` is set."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.status: int | None = None
        self.address = ""

    def commit_id(self, name: str) -> str:
        """Hash of the repository's content."""
        listing = sorted((path, hashlib.sha1(content).hexdigest()) for path, content in self.repositories[name].items())
        return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _parts(self) -> list[str]:
        return unquote(urlsplit(self.path).path).strip("/").split("/")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub, parts = self.hub, self._parts()
        if hub.status:
            self._answer({"error": "refused"}, hub.status)
        elif parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            hub.repositories.setdefault(name, {})
            self._answer({"url": f"{hub.address}/{name}", "name": name, "id": name})
        elif parts[-2:-1] == ["preupload"]:
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self._answer({"files": modes})
        elif parts[-2:-1] == ["commit"]:
            name = "/".join(parts[2:4])
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    hub.repositories[name][item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            id_ = hub.commit_id(name)
            self._answer({"commitUrl": f"{hub.address}/{name}/commit/{id_}", "commitOid": id_, "success": True})
        else:
            self._answer({"errors": [], "warnings": []})

    def do_GET(self) -> None:
        hub, parts = self.hub, self._parts()
        if hub.status:
            self._answer({"error": "refused"}, hub.status)
        elif parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            if name not in hub.repositories:
                self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                return
            if parts[4:5] == ["tree"]:
                content = hub.repositories[name].items()
                oids = {path: hashlib.sha1(value).hexdigest() for path, value in content}
                self._answer(
                    [{"type": "file", "path": path, "size": len(value), "oid": oids[path]} for path, value in content]
                )
                return
            siblings = [{"rfilename": path} for path in hub.repositories[name]]
            self._answer({"id": name, "sha": hub.commit_id(name), "siblings": siblings, "private": False, "tags": []})
        elif len(parts) > 4 and parts[2] == "resolve":
            name, path = "/".join(parts[:2]), "/".join(parts[4:])
            content = hub.repositories[name][path]
            tag = hashlib.sha1(content).hexdigest()
            self._answer(content, headers={"ETag": f'"{tag}"', "X-Repo-Commit": hub.commit_id(name)})
        else:
            self._answer({"error": "not found"}, 404)

    do_HEAD = do_GET


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that answers while the context is open, at `hub.address`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
