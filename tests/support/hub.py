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
    """Repositories by name, each a dict of path -> content; refuses everyone while `status` is set.

    Safetensors files go the way of large ones: through the batch API of git LFS.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.status: int | None = None
        self.most: int | None = None
        """Bytes after which the connection breaks off, in each answer with a file."""
        self.broken: str | None = None
        """A file of which no byte is ever sent."""
        self.ranges: list[str] = []
        """From where files were asked for."""
        self.asked: list[str] = []
        """Files that were asked for."""
        self.address = ""

    def commit_id(self, name: str) -> str:
        """Hash of the repository's content."""
        listing = sorted((path, hashlib.sha1(content).hexdigest()) for path, content in self.repositories[name].items())
        return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


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

    def _refuses(self, parts: list[str], body: bytes = b"") -> int | None:
        """Everything of a repository `answers/401` is answered so."""
        wanted = json.loads(body) if parts == ["api", "repos", "create"] else {}
        if wanted.get("organization") == "answers":
            return int(wanted["name"])
        place = parts.index("answers") if "answers" in parts else -1
        return int(parts[place + 1]) if place >= 0 else self.hub.status

    def _parts(self) -> list[str]:
        return unquote(urlsplit(self.path).path).strip("/").split("/")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub, parts = self.hub, self._parts()
        if status := self._refuses(parts, body):
            self._answer({"error": "refused"}, status)
        elif parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            hub.repositories.setdefault(name, {})
            self._answer({"url": f"{hub.address}/{name}", "name": name, "id": name})
        elif parts[-2:-1] == ["preupload"]:
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False} for file in files]
            self._answer({"files": modes})
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.address}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif parts[-2:-1] == ["commit"]:
            name = "/".join(parts[2:4])
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    hub.repositories[name][item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                elif item["key"] == "lfsFile":
                    hub.repositories[name][item["value"]["path"]] = hub.objects[item["value"]["oid"]]
            id_ = hub.commit_id(name)
            self._answer({"commitUrl": f"{hub.address}/{name}/commit/{id_}", "commitOid": id_, "success": True})
        else:
            self._answer({"errors": [], "warnings": []})

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self._parts()[-1]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self._answer({})

    def do_GET(self) -> None:
        hub, parts = self.hub, self._parts()
        if status := self._refuses(parts):
            self._answer({"error": "refused"}, status)
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
            self._send_file("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self._answer({"error": "not found"}, 404)

    do_HEAD = do_GET

    def _send_file(self, name: str, path: str) -> None:
        hub = self.hub
        content, asked = hub.repositories[name][path], self.headers.get("Range", "")
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": hub.commit_id(name),
            "Accept-Ranges": "bytes",
        }
        first = 0
        if asked:
            hub.ranges.append(asked)
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        if self.command == "GET":
            hub.asked.append(path)
        allowed = len(content) - first if hub.most is None else min(len(content) - first, hub.most)
        allowed = 0 if path == hub.broken else allowed
        if self.command == "HEAD" or allowed == len(content) - first:
            self._answer(content[first:], 206 if asked else 200, headers)
            return
        self.send_response(206 if asked else 200)
        for key, value in {"Content-Length": str(len(content) - first), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content[first : first + allowed])
        self.close_connection = True


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
