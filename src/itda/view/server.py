"""The pages on this machine, with what needs a model: explaining, changing, leaving out."""

import gzip
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from itda.errors import FormatError, ItdaError, MissingExtraError, OptionError, OutputError
from itda.view import pages, site
from itda.view.notes import LONGEST
from itda.view.shelf import Book, Shelf

try:
    from fastapi import FastAPI, Request
    from fastapi.middleware.gzip import GZipMiddleware
    from fastapi.responses import JSONResponse, RedirectResponse, Response
    from pydantic import BaseModel, Field, model_validator
except ImportError as _error:
    raise MissingExtraError("The viewer", "view") from _error

if TYPE_CHECKING:
    from itda.view.what_if import WhatIf

LOCAL = ("127.0.0.1", "localhost", "::1")
_COOKIE = "itda-token"
_LARGEST_BODY = 2**20  # bytes: the longest text takes 80 kB
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
Opener = Callable[[Book], "WhatIf"]
Call = Callable[[Request], Awaitable[Response]]


class TextToExplain(BaseModel):
    """A text to explain."""

    text: Annotated[str, Field(min_length=1, max_length=site.LONGEST_TEXT)]


class Scaled(BaseModel):
    """An atom with another coefficient."""

    atom: Annotated[int, Field(ge=0, le=2**31)]
    scale: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class TextToChange(TextToExplain):
    """A text, a token of it, and atoms of that token to scale."""

    token: Annotated[int, Field(ge=0, le=2**31)]
    changes: Annotated[list[Scaled], Field(max_length=1000)]


class Steered(BaseModel):
    """An atom or a vector, and how strongly."""

    atom: Annotated[int | None, Field(ge=0, le=2**31)] = None
    vector: Annotated[str | None, Field(max_length=200)] = None
    strength: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.atom is None) == (self.vector is None):
            raise ValueError("give an atom or a vector")
        return self


class TextToGoOn(TextToExplain):
    """A text to go on with, and what steers the model meanwhile."""

    amounts: Annotated[list[Steered], Field(max_length=100)]
    tokens: Literal["all", "prompt", "generation", "last"] = "all"
    count: Annotated[int, Field(ge=1, le=site.LONGEST_ANSWER)] = 40


class NoteToKeep(BaseModel):
    """What a person makes of an atom."""

    text: Annotated[str, Field(max_length=LONGEST)]


class Refused(BaseModel):
    """Why a request was not done, and what to do."""

    message: str


Number = Annotated[int, Field(ge=0, le=2**31)]


def application(shelf: Shelf, opener: Opener, *, host: str = LOCAL[0], token: str | None = None) -> FastAPI:
    """The viewer as an ASGI application.

    Args:
        shelf: what is shown.
        opener: loads dictionary and model when a page first needs them.
        host: the name or address it is bound to; requests for another one are refused, and so are pages of other
            sites that would write.
        token: what writing takes; drawn by default. Bound to another address than this machine's own, everything
            takes it.
    Raises: MissingExtraError without FastAPI.
    """
    secret = token or secrets.token_urlsafe(16)
    shown = site.Site(shelf, live=True, token=secret)
    models = _Models(opener)
    app = FastAPI(
        title="itda view", docs_url=None, redoc_url=None,
        responses={code: {"model": Refused} for code in (400, 401, 403, 404, 411, 413, 422, 503)},
    )  # fmt: skip
    app.state.token = secret

    def answer(found: site.Answer) -> Response:
        return Response(found.content, media_type=found.kind)

    kept: dict[str, tuple[str, bytes]] = {}

    def packed(key: str, make: Callable[[], site.Answer], request: Request) -> Response:
        """What is large and stays the same, compressed once, and not sent again to who has it."""
        found = make()
        if key not in kept:
            kept[key] = f'"{hashlib.sha256(found.content).hexdigest()[:32]}"', gzip.compress(found.content, 9, mtime=0)
        tag, small = kept[key]
        headers = {"ETag": tag, "Vary": "Accept-Encoding"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(found.content, media_type=found.kind, headers=headers)
        return Response(small, media_type=found.kind, headers={**headers, "Content-Encoding": "gzip"})

    @app.get("/", include_in_schema=False)
    def root() -> Response:
        only = next(iter(shelf.books)) if len(shelf.books) == 1 and not shelf.results else None
        return RedirectResponse(f"d/{only}/index.html" if only else "index.html")

    @app.get("/index.html", include_in_schema=False)
    def index() -> Response:
        return answer(shown.index())

    @app.get("/compare.html", include_in_schema=False)
    def compare() -> Response:
        return answer(shown.compare())

    @app.get("/static/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        return answer(site.static(name))

    @app.get("/d/{name}/index.html", include_in_schema=False)
    def dictionary(name: str) -> Response:
        return answer(shown.dictionary(name))

    @app.get("/d/{name}/", include_in_schema=False)
    def short(name: str) -> Response:
        return answer(shown.dictionary(name))

    @app.get("/d/{name}/atoms.js", include_in_schema=False)
    def table_script(name: str, request: Request) -> Response:
        return packed(f"{name}/atoms.js", lambda: shown.table_script(name), request)

    @app.get("/d/{name}/explain.html", include_in_schema=False)
    def explain_page(name: str) -> Response:
        return answer(shown.explain(name))

    @app.get("/d/{name}/steer.html", include_in_schema=False)
    def steer_page(name: str) -> Response:
        return answer(shown.steer(name))

    @app.get("/d/{name}/views/{view}.html", include_in_schema=False)
    def view_page(name: str, view: str) -> Response:
        return answer(shown.view(name, view))

    @app.get("/d/{name}/atoms/{atom}.html", include_in_schema=False)
    def atom_page(name: str, atom: Number) -> Response:
        return answer(shown.atom(name, atom))

    @app.get("/api/d")
    def dictionaries() -> dict[str, Any]:
        """The dictionaries and what they are made of."""
        return {name: dict(pages.summary(book.records)) for name, book in shelf.books.items()}

    @app.get("/api/d/{name}/atoms")
    def atoms(name: str) -> dict[str, Any]:
        """All atoms as columns."""
        return shown.table(name)

    @app.get("/api/d/{name}/atoms/{atom}")
    def atom(name: str, atom: Number) -> dict[str, Any]:
        """Everything about one atom."""
        book = shelf.book(name)
        return {**pages.atom(book.records, atom), "note": book.notes[atom]}

    @app.post("/api/d/{name}/explain")
    def explain(name: str, asked: TextToExplain) -> dict[str, Any]:
        """A text token by token."""
        return models.use(shelf.book(name), lambda model: model.explain(asked.text))

    @app.post("/api/d/{name}/change")
    def change(name: str, asked: TextToChange) -> dict[str, Any]:
        """What is predicted with some atoms of a token scaled."""
        changes = {one.atom: one.scale for one in asked.changes}
        return models.use(shelf.book(name), lambda model: model.change(asked.text, asked.token, changes))

    @app.post("/api/d/{name}/steer")
    def steer(name: str, asked: TextToGoOn) -> dict[str, Any]:
        """A text that the model goes on with, with and without atoms and vectors."""
        book = shelf.book(name)
        vectors = [(shelf.vector(one.vector), one.strength) for one in asked.amounts if one.vector is not None]
        atoms: dict[int, float] = {}
        for one in asked.amounts:
            if one.atom is not None:
                atoms[one.atom] = atoms.get(one.atom, 0.0) + one.strength
        for atom in atoms:
            book.records.uses_of(atom)  # refuses an atom that is not there, before a model is loaded
        return models.use(book, lambda model: model.steer(asked.text, vectors, atoms, asked.tokens, asked.count))

    @app.post("/api/d/{name}/atoms/{atom}/effect")
    def effect(name: str, atom: Number) -> dict[str, Any]:
        """What leaving out an atom changes."""
        book = shelf.book(name)
        texts = pages.texts_using(book.records, atom)
        return models.use(book, lambda model: model.effect(atom, texts))

    @app.put("/api/d/{name}/atoms/{atom}/note")
    def note(name: str, atom: Number, asked: NoteToKeep) -> dict[str, Any]:
        """Keep a note on an atom; an empty one takes it away."""
        book = shelf.book(name)
        book.records.uses_of(atom)  # refuses an atom that is not there
        book.notes.write(atom, asked.text)
        return {"atom": atom, "text": book.notes[atom]}

    _answer_errors(app, shown)
    _guard(app, host, secret)
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    return app


class _Models:
    """Dictionaries with their models, loaded when they are first asked; one is asked at a time."""

    def __init__(self, opener: Opener) -> None:
        self._opener, self._opened = opener, dict[str, "WhatIf"]()
        self._lock = Lock()

    def use(self, book: Book, ask: Callable[["WhatIf"], dict[str, Any]]) -> dict[str, Any]:
        with self._lock:
            if book.name not in self._opened:
                self._opened[book.name] = self._opener(book)
            return ask(self._opened[book.name])


def _answer_errors(app: FastAPI, shown: site.Site) -> None:
    """Whatever goes wrong is said, as JSON or as a page, and the server stays up."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    def say(request: Request, status: int, title: str, message: str) -> Response:
        if request.url.path.startswith("/api/"):
            return JSONResponse({"message": message}, status)
        depth = max(request.url.path.count("/") - 1, 0)
        page = shown.error(status, title, message, depth)
        return Response(page.content, status, media_type=page.kind)

    @app.exception_handler(ItdaError)
    def refused(request: Request, error: ItdaError) -> Response:
        missing = isinstance(error, OptionError) and request.method == "GET"
        status = 404 if missing else 503 if isinstance(error, FormatError | OutputError) else 400
        return say(request, status, "Not found" if missing else "That cannot be done", str(error))

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        return say(
            request, error.status_code, "Not found" if error.status_code == 404 else "Refused", str(error.detail)
        )

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        page = not request.url.path.startswith("/api/")
        return say(
            request, 404 if page else 422, "Not found" if page else "", f"This request is not understood: {said}."
        )

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:
        return say(request, 500, "Something went wrong", f"{type(error).__name__}: {error}. The server goes on.")


def _guard(app: FastAPI, host: str, secret: str) -> None:
    """Only pages of this server get answers, and only those that know the token may write."""
    names = {*LOCAL} if host in LOCAL else {host.lower(), *LOCAL}
    open_to_all = host in LOCAL

    @app.middleware("http")
    async def guard(request: Request, call: Call) -> Response:
        refused = _refusal(request)
        if refused is not None:
            return refused
        response = await call(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-cache"
        return response

    def _refusal(request: Request) -> Response | None:
        if host not in ("0.0.0.0", "::") and _name(f"//{request.headers.get('host', '')}") not in names:
            return JSONResponse({"message": "This server answers only to its own name."}, 403)
        origin = request.headers.get("origin")
        if origin is not None and _netloc(origin) != request.headers.get("host"):
            return JSONResponse({"message": "Pages of other sites may not ask this server."}, 403)
        if not open_to_all:
            given = request.query_params.get("token")
            if given is not None and secrets.compare_digest(given.encode(), secret.encode()):
                answer = RedirectResponse(str(request.url.remove_query_params("token")))
                answer.set_cookie(_COOKIE, secret, httponly=True, samesite="strict")
                return answer
            if not secrets.compare_digest(request.cookies.get(_COOKIE, "").encode(), secret.encode()):
                return JSONResponse({"message": "Open the address that itda view printed: it holds a token."}, 401)
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            length = request.headers.get("content-length", "")
            if not length.isdecimal():
                return JSONResponse({"message": "A request with a body says how long it is."}, 411)
            if len(length) > len(str(_LARGEST_BODY)) or int(length) > _LARGEST_BODY:
                return JSONResponse({"message": f"A request has at most {_LARGEST_BODY:,} bytes."}, 413)
            given = request.headers.get("x-itda-token", "")
            if not secrets.compare_digest(given.encode(), secret.encode()):
                return JSONResponse({"message": "Writing takes the token of a page of this server."}, 401)
        return None


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _netloc(origin: str) -> str | None:
    """Host and port of an origin; None for one that is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None
