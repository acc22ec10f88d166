"""The server answers its own pages and nobody else, shows hostile text as text, and stays up."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import itda
from itda.errors import FormatError, OptionError
from itda.view import pages, site
from itda.view.records import folder_of
from itda.view.server import application
from itda.view.shelf import Shelf
from support.pages import hostile_texts

TOKEN = "secret"
ADDRESS = "http://127.0.0.1:8765"
WRITE = {"x-itda-token": TOKEN}
_TEMPLATES = Path(site.__file__).parent.joinpath("templates").glob("*.html")
TAGS = {tag for path in _TEMPLATES for tag in re.findall(r"<([a-z][a-z0-9]*)", path.read_text())}
TAGS |= {"svg", "rect", "text", "line", "polyline", "title"}
"""What our own templates and charts are made of."""
CONFORMING = [schemathesis.checks.status_code_conformance, schemathesis.checks.response_schema_conformance]


def client_of(shelf, opener=None, **options):
    app = application(shelf, opener, token=TOKEN, **options)
    return TestClient(app, base_url=ADDRESS, raise_server_exceptions=False)


@pytest.fixture
def client(shelf, opener):
    return client_of(shelf, opener)


def test_every_page_is_there(client, prepared):
    for path, expected in (
        ("/", "128 real activations"), ("/index.html", "l3"), ("/d/l3/index.html", "resid_post.3"), ("/d/l3/", "Atoms"),
        ("/d/l3/atoms/5.html", "Atom 5"), ("/d/l3/explain.html", "Explain a text"),
        ("/d/l3/steer.html", "Steer the model"),
        ("/static/itda.css", "--plus"),
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert expected in answer.text, path
        assert "script-src 'self'" in answer.headers["content-security-policy"]
    table = json.loads(client.get("/d/l3/atoms.js").text.removeprefix("window.itdaAtoms = ").rstrip(";\n"))
    assert table["uses"] == prepared.records.counts.tolist()
    assert client.get("/api/d/l3/atoms/5").json()["token"] == pages.atom(prepared.records, 5)["token"]


def test_a_text_is_gone_on_with_steered(client, prepared, embedded):
    text = "Return the number of"
    page = client.get("/d/l3/steer.html").text
    assert 'data-vector="raise"' in page
    assert "Strength of raise" in page
    assert "steer.html" in client.get("/d/l3/index.html").text

    def asked(amounts, **options):
        body = {"text": text, "amounts": amounts, "count": 8, **options}
        return client.post("/api/d/l3/steer", json=body, headers=WRITE)

    nothing = asked([]).json()
    plain = itda.steer.generate(embedded, text, max_new_tokens=8)[0].text
    assert nothing["before"] == nothing["after"] == itda.html.visible(plain)
    assert nothing["kl"] == nothing["kl_next"] == 0
    assert nothing["next_before"] == nothing["next_after"]
    atom = int(prepared.records.counts.argmax())
    found = asked([{"atom": atom, "strength": 1.5}, {"vector": "raise", "strength": -1}]).json()
    vectors = [
        itda.steer.SteeringVector.from_atom(prepared.dictionary, atom),
        itda.steer.SteeringVector.load(prepared.folder / "raise.safetensors"),
    ]
    with vectors[0].apply(embedded, 1.5), vectors[1].apply(embedded, -1.0):
        expected = itda.steer.generate(embedded, text, max_new_tokens=8)[0].text
    assert found["after"] == itda.html.visible(expected)
    assert found["kl"] > 0
    assert asked([{"atom": atom, "strength": 1.5}], tokens="generation").json()["kl"] == 0, "the text is left alone"
    for amounts, message in (
        ([{"atom": 128, "strength": 1}], "128"), ([{"vector": "../raise", "strength": 1}], "no vector"),
    ):  # fmt: skip
        answer = asked(amounts)
        assert answer.status_code == 400
        assert message in answer.json()["message"]
    assert asked([{"atom": 1, "strength": "NaN"}]).status_code == 422
    assert client.post("/api/d/l3/steer", json={"text": text, "amounts": []}).status_code == 401


def test_the_table_is_compressed_once_and_not_sent_twice(client):
    plain = client.get("/d/l3/atoms.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    small = client.get("/d/l3/atoms.js", headers={"accept-encoding": "gzip"})
    assert small.headers["content-encoding"] == "gzip"
    assert small.content == plain.content
    assert int(small.headers["content-length"]) < len(plain.content) / 2
    again = client.get("/d/l3/atoms.js", headers={"if-none-match": small.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_pages_ask_no_address_outside(client):
    pages_and_files = (
        "d/l3/index.html",
        "d/l3/atoms/5.html",
        "d/l3/explain.html",
        "d/l3/steer.html",
        "static/steer.js",
        "static/itda.css",
        "static/atom.js",
    )
    for path in pages_and_files:
        found = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", client.get(f"/{path}").text)
        assert {address for address in found if "w3.org" not in address} <= set(), path  # the name of SVG is no address


def test_a_text_is_explained_and_changed(client, prepared, embedded):
    text = "Return the number of items."
    found = client.post("/api/d/l3/explain", json={"text": text}, headers=WRITE).json()
    explained = itda.explain(prepared.dictionary, embedded, text)
    assert [token["token"] for token in found["tokens"]] == [token.token for token in explained.tokens]
    place = next(i for i, token in enumerate(found["tokens"]) if token["pieces"])
    token = found["tokens"][place]
    assert {piece["atom"]: piece["coefficient"] for piece in token["pieces"]} == {
        piece.atom: piece.coefficient for piece in explained.tokens[place].pieces
    }
    assert sum(share for _, share in token["clean"]) <= 1
    ask = {"text": text, "token": place}
    atom = token["pieces"][0]["atom"]

    def scaled(scale):
        changes = {**ask, "changes": [{"atom": atom, "scale": scale}]}
        return client.post("/api/d/l3/change", json=changes, headers=WRITE).json()

    same = scaled(1)
    assert same["changed"] == token["clean"]
    assert same["kl"] == pytest.approx(0, abs=1e-6)
    assert scaled(0)["kl"] > 0.001


def test_leaving_out_an_atom(client, prepared):
    atom = int(prepared.records.counts.argmax())
    found = client.post(f"/api/d/l3/atoms/{atom}/effect", headers=WRITE).json()
    assert found["tokens"] > 0
    assert found["kl"] > 0


def test_notes_are_kept_and_taken_away(client, prepared, shelf):
    path = "/api/d/l3/atoms/9/note"
    note = "ends a sentence <b>\u202e"
    assert client.put(path, json={"text": note}, headers=WRITE).json() == {"atom": 9, "text": note}
    assert "ends a sentence &lt;b&gt;" in client.get("/d/l3/atoms/9.html").text
    again = client_of(Shelf.open([prepared.folder]))
    assert again.get("/api/d/l3/atoms/9").json()["note"] == note
    assert shelf.book("l3").notes.all() == {9: note}
    client.put(path, json={"text": " "}, headers=WRITE)
    assert shelf.book("l3").notes.all() == {}
    assert client.put("/api/d/l3/atoms/999/note", json={"text": "x"}, headers=WRITE).status_code == 400
    assert client.put(path, json={"text": "x" * 10_001}, headers=WRITE).status_code == 422


def test_damaged_notes_are_said_and_left(prepared, tmp_path):
    shutil.copytree(prepared.folder, tmp_path / "runs")
    notes = tmp_path / "runs" / "l3.notes.json"
    notes.write_text("{}")
    client = client_of(Shelf.open([tmp_path / "runs"]))
    answer = client.put("/api/d/l3/atoms/1/note", json={"text": "x"}, headers=WRITE)
    assert answer.status_code == 503
    assert "Mend the file" in answer.json()["message"]
    assert notes.read_text() == "{}"


def test_only_its_own_name_and_pages_get_answers(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/", headers={"host": "127.0.0.1.evil.example"}).status_code == 403
    assert client.get("/index.html", headers={"host": "localhost:8765"}).status_code == 200
    assert client.get("/api/d", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/api/d", headers={"origin": ADDRESS}).status_code == 200
    assert client.put("/api/d/l3/atoms/1/note", json={"text": "x"}).status_code == 401
    assert (
        client.put(
            "/api/d/l3/atoms/1/note", json={"text": "x"}, headers={"x-itda-token": "é".encode("latin-1")}
        ).status_code
        == 401
    )
    assert client.post("/api/d/l3/explain", json={"text": "x"}, headers={**WRITE, "origin": "null"}).status_code == 403


def test_endless_requests_are_refused(client):
    large = client.post("/api/d/l3/explain", content=b"x" * (2**20 + 1), headers=WRITE)
    assert large.status_code == 413
    unknown = client.post("/api/d/l3/explain", content=iter([b"{}"]), headers=WRITE)
    assert unknown.status_code == 411


def test_bound_elsewhere_everything_takes_the_token(shelf, opener):
    app = application(shelf, opener, host="10.1.2.3", token=TOKEN)
    client = TestClient(app, base_url="http://10.1.2.3:8765", raise_server_exceptions=False)
    assert client.get("/index.html").status_code == 401
    assert client.get("/index.html?token=wrong").status_code == 401
    assert "l3" in client.get(f"/index.html?token={TOKEN}").text
    assert client.get("/index.html").status_code == 200, "the address is asked once, then a cookie"


def test_names_cannot_leave_the_folder(client):
    for path in (
        "/static/..%2f..%2fserver.py", "/static/../server.py", "/d/..%2f..%2fetc/index.html", "/d/l3/atoms/..%2f1.html",
        "/static/%00", "/d/%2e%2e/index.html", "/api/d/..%2fl3/atoms", "/d/l3/../../itda.json", "/d/l3/itda.json",
    ):  # fmt: skip
        assert client.get(path).status_code in (404, 422), path


def test_missing_things_are_pages_that_say_so(client):
    for path in ("/d/nothing/index.html", "/d/l3/atoms/128.html", "/d/l3/atoms/x.html", "/nowhere", "/compare.html"):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert "To the dictionaries" in answer.text
    assert "There are: l3" in client.get("/d/nothing/index.html").text


def test_a_model_that_is_gone_is_said_and_the_server_stays(shelf):
    def gone(book):
        raise FormatError(f"{book.folder} is gone. Copy it again.")

    client = client_of(shelf, gone)
    answer = client.post("/api/d/l3/explain", json={"text": "x"}, headers=WRITE)
    assert answer.status_code == 503
    assert answer.json()["message"].endswith("Copy it again.")
    assert client.get("/d/l3/atoms/5.html").status_code == 200

    def broken(book):
        raise RuntimeError("a wheel came off")

    client = client_of(shelf, broken)
    answer = client.post("/api/d/l3/explain", json={"text": "x"}, headers=WRITE)
    assert (answer.status_code, "a wheel came off" in answer.text) == (500, True)
    assert client.get("/d/l3/atoms/5.html").status_code == 200


def test_files_that_vanish_while_serving_change_nothing_that_is_open(prepared, tmp_path, opener):
    shutil.copytree(prepared.folder, tmp_path / "runs")
    client = client_of(Shelf.open([tmp_path / "runs"]), opener)
    shutil.rmtree(tmp_path / "runs")
    assert client.get("/d/l3/atoms/5.html").status_code == 200
    answer = client.post("/api/d/l3/explain", json={"text": "x"}, headers=WRITE)
    assert answer.status_code == 503
    assert "no folder" in answer.json()["message"]


def test_hostile_text_is_shown_as_text(hostile):
    client = client_of(Shelf.open([hostile.folder]))
    name = next(iter(Shelf.open([hostile.folder]).books))
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    paths = [f"/d/{name}/index.html", "/index.html", *(f"/d/{name}/atoms/{atom}.html" for atom in range(64))]
    for path in paths:
        page = client.get(path).text
        assert set(re.findall(r"<([a-z][a-z0-9]*)", page)) <= TAGS, path
        assert re.findall(r"<script(?! src=)", page) == []
        assert not re.search(r"<[^>]*\son[a-z]+=", page)
        assert "\u202e" not in page
        assert "\x1b" not in page
        assert len(page) < 400_000, "a line of 100 kB is cut"
    script = client.get(f"/d/{name}/atoms.js").text
    assert script.isascii()
    assert json.loads(script.removeprefix("window.itdaAtoms = ").rstrip(";\n"))["token"]


def test_two_hundred_hostile_notes_and_texts(client, prepared):
    atom = "/api/d/l3/atoms/2/note"
    for text in hostile_texts()[:-1]:
        kept = client.put(atom, json={"text": text}, headers=WRITE)
        assert kept.status_code == 200
        assert client.get("/api/d/l3/atoms/2").json()["note"] == (text if text.strip() else "")
        assert "<script>" not in client.get("/d/l3/atoms/2.html").text
    client.put(atom, json={"text": ""}, headers=WRITE)
    for text in [*hostile_texts()[:30], hostile_texts()[-1][:5_000]]:
        answer = client.post("/api/d/l3/explain", json={"text": text}, headers=WRITE)
        assert answer.status_code == 200, answer.text
    answer = client.post("/api/d/l3/explain", json={"text": hostile_texts()[-1]}, headers=WRITE)
    assert answer.status_code == 422
    assert client.post("/api/d/l3/explain", json={"text": " \n"}, headers=WRITE).status_code == 400


def test_requests_of_any_shape_are_answered(shelf, opener):
    """As schemathesis makes them from the description: answered as it says, never with a failure of the server."""
    schema = schemathesis.openapi.from_asgi(
        "/openapi.json", application(shelf, opener, token=TOKEN), headers={"host": "127.0.0.1"}
    )
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case):
            headers = {**(case.headers or {}), "host": "127.0.0.1", **WRITE}
            case.call_and_validate(headers=headers, checks=[schemathesis.checks.not_a_server_error, *CONFORMING])

        ask()
        asked += 1
    assert asked == 8


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.text(max_size=40), atom=st.one_of(st.text(max_size=12), st.integers()), form=st.integers(0, 6))
def test_addresses_of_any_shape_are_answered(client, name, atom, form):
    known = quote(name, safe="") if form % 2 else "l3"
    number = quote(str(atom), safe="")
    path = [
        f"/d/{known}/index.html", f"/d/{known}/", f"/d/{known}/atoms.js", f"/d/{known}/explain.html",
        f"/d/{known}/steer.html", f"/static/{quote(name, safe='')}", f"/d/{known}/atoms/{number}.html",
    ][form]  # fmt: skip
    assert client.get(path).status_code in (200, 307, 404)


def test_a_shelf_names_what_it_has(shelf, prepared, tmp_path):
    with pytest.raises(OptionError, match="There are: l3"):
        shelf.book("x")
    for number in range(2):
        target = tmp_path / str(number) / "same name"
        shutil.copytree(prepared.folder / "l3", target)
        shutil.copytree(folder_of(prepared.folder / "l3"), folder_of(target))
    assert list(Shelf.open([tmp_path / "0", tmp_path / "1"]).books) == ["same-name", "same-name-2"]
