"""What a person sees and can do, in a real browser, served and opened from files."""

import json
import re
from pathlib import Path

import pytest

import itda
from itda import compare
from itda.compare.known import write_json
from itda.view import exporting, pages
from itda.view.preparing import prepare
from itda.view.shelf import Shelf
from itda.view.what_if import WhatIf
from support.browser import FLAGS, executable, serving

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect


@pytest.fixture(scope="module")
def browser():
    path = executable()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


class Watched:
    """A page of which everything that goes wrong, and every request for another address, is kept."""

    def __init__(self, browser, **options):
        self.page = browser.new_page(**options)
        self.wrong, self.asked = [], []
        self.page.on("console", lambda message: message.type == "error" and self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def close(self):
        """Closed before the server that it reads from: what it still loads would be refused."""
        self.page.close()
        assert self.wrong == []


@pytest.fixture
def watched(browser):
    made = []

    def open_page(**options):
        made.append(Watched(browser, **options))
        return made[-1]

    yield open_page
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def address(prepared, opener):
    with serving(Shelf.open([prepared.folder]), opener) as address:
        yield address


def serious(page):
    """What axe finds that is serious or worse."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found if one["impact"] in ("serious", "critical")
    ]


def rows_of(page):
    return page.locator("#table tbody tr")


def test_a_person_finds_an_atom_and_reads_it(watched, address, prepared):
    seen = watched(viewport={"width": 1280, "height": 900})
    page = seen.page
    page.goto(address)
    assert page.locator("h1").inner_text() == "l3"
    expect(page.locator("#filter")).to_be_enabled()
    assert rows_of(page).count() == 100
    page.click("#more")
    assert rows_of(page).count() == 128
    token = next(token for token in pages.table(prepared.records)["token"] if re.fullmatch(r" [a-z]{4,}", token))
    page.fill("#filter", token.strip())
    shown = rows_of(page).all_inner_texts()
    assert 0 < len(shown) < 128
    assert all(token.strip() in row.lower() for row in shown)
    assert f"{len(shown)} of 128 atoms" in page.locator("#found").inner_text()
    first = rows_of(page).first.locator("a")
    number = int(first.inner_text())
    first.click()
    expect(page.locator("h1")).to_contain_text(f"Atom {number}")
    part = pages.atom(prepared.records, number)["parts"][0]
    marked = page.locator("blockquote mark")
    assert marked.first.inner_text().strip() == part["token"].strip()
    assert page.locator(".contexts li").count() == len(pages.atom(prepared.records, number)["positive"]) + len(
        pages.atom(prepared.records, number)["negative"]
    )
    assert page.locator(".contexts .here").first.is_visible()
    page.click("text=Nearest atoms")
    page.locator("section[aria-labelledby=nearest] a").first.click()
    assert int(re.search(r"\d+", page.locator("h1").inner_text())[0]) == int(prepared.records.nearest[number, 0])
    assert all(url.startswith(address) for url in seen.asked)


def test_the_table_is_sorted_by_what_is_clicked(watched, address, prepared):
    page = watched().page
    page.goto(f"{address}/d/l3/index.html")
    expect(page.locator("#filter")).to_be_enabled()
    for column, place in (("uses", 2), ("size", 3), ("atom", 0)):
        for _ in range(2):
            page.click(f"th[data-column={column}] button")
            order = page.locator(f"th[data-column={column}]").get_attribute("aria-sort")
            cells = [
                float(row.replace(",", ""))
                for row in page.locator(f"#table tbody td:nth-child({place + 1})").all_inner_texts()
            ]
            assert cells == sorted(cells, reverse=order == "descending")


def test_the_map_is_brushed_by_pointer_and_by_keyboard(watched, address, prepared):
    page = watched(viewport={"width": 1280, "height": 900}).page
    page.goto(f"{address}/d/l3/index.html")
    expect(page.locator("#filter")).to_be_enabled()
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 5)
    page.mouse.up()
    inside = {int(atom) for atom in (prepared.records.places[:, 0] < -0.02).nonzero()[0]}
    chosen = {int(text) for text in page.locator("#table tbody td:first-child").all_inner_texts()}
    assert chosen
    assert len(chosen ^ inside) <= 4, "those in the left half"
    page.click("#clear-map")
    assert "128 atoms" in page.locator("#found").inner_text()
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    assert "of 128" in page.locator("#found").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#found").inner_text() == "128 atoms"


def test_a_text_is_explained_and_an_atom_scaled(watched, address):
    page = watched().page
    page.goto(f"{address}/d/l3/explain.html")
    page.fill("#text", "Return the <b>number</b> of items.")
    page.click("#explain button")
    page.wait_for_selector("#answer:not([hidden])")
    tokens = page.locator("#tokens button")
    assert "<b" in "".join(tokens.all_inner_texts())
    tokens.nth(4).click()
    assert tokens.nth(4).get_attribute("aria-pressed") == "true"
    page.keyboard.press("ArrowRight")
    assert tokens.nth(5).get_attribute("aria-pressed") == "true"
    assert page.locator(".piece").count() > 0
    assert page.locator("#next th").all_inner_texts() == ["the model", "with the reconstruction"]
    slider = page.locator(".piece input[type=range]").first
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_selector("#next th:nth-child(3)")
    expect(page.locator("#state")).to_have_text("")
    minus = page.locator("#next p").inner_text()
    page.locator(".piece button").first.click()
    expect(page.locator(".piece output").first).to_have_text("×0")
    expect(page.locator("#next p")).not_to_have_text(minus)
    assert page.locator(".piece button").first.get_attribute("aria-pressed") == "true"
    assert float(re.search(r"token (\d+\.\d+) nats", page.locator("#next p").inner_text())[1]) > 0
    assert page.locator("#state").inner_text() == ""


def test_a_model_is_steered_by_sliders(watched, address, prepared):
    seen = watched()
    page = seen.page
    atom = int(prepared.records.counts.argmax())
    page.goto(f"{address}/d/l3/atoms/{atom}.html")
    page.click("text=Steer with it")
    row = page.locator(f"[data-atom='{atom}']")
    expect(row.locator("a")).to_have_text(str(atom))
    page.fill("#text", "Return the <b>number</b> of")
    page.fill("#count", "8")
    page.click("#steer button[type=submit]")
    page.wait_for_selector("#answer:not([hidden])")
    before = page.locator("#before").inner_text()
    assert page.locator("#prompt-after").inner_text() == "Return the <b>number</b> of"
    assert page.locator("#next th").all_inner_texts() == ["without steering", "steered"]
    slider = row.locator("input")
    slider.focus()
    page.keyboard.press("End")
    expect(row.locator("output")).to_have_text("2")
    weak = page.locator("#kl").inner_text()
    page.click("#steer button[type=submit]")
    expect(page.locator("#kl")).not_to_have_text(weak)
    assert page.locator("#before").inner_text() == before
    row.locator("button").click()
    vector = page.locator("[data-vector=raise]")
    vector.locator("input").focus()
    page.keyboard.press("Home")
    expect(vector.locator("output")).to_have_text("-2")
    page.fill("#atom", "3")
    page.keyboard.press("Enter")
    expect(page.locator("[data-atom='3'] a")).to_have_text("3")
    page.locator("[data-atom='3'] button").click()
    expect(page.locator("#amounts .amount")).to_have_count(1)
    page.click("#steer button[type=submit]")
    expect(page.locator("#state")).to_have_text("")
    assert all(url.startswith(address) for url in seen.asked)


def test_a_text_that_cannot_be_explained_is_said(watched, address):
    seen = watched()
    page = seen.page
    page.goto(f"{address}/d/l3/explain.html")
    page.fill("#text", "   ")
    page.click("#explain button")
    expect(page.locator("#state")).to_contain_text("not empty")
    assert "400" in seen.wrong.pop(), "the browser notes the refusal, and nothing else"
    page.fill("#text", "Return")
    page.click("#explain button")
    page.wait_for_selector("#answer:not([hidden])")


def test_an_effect_is_measured_and_a_note_kept(watched, address, prepared):
    page = watched().page
    atom = int(prepared.records.counts.argsort()[-10])
    page.goto(f"{address}/d/l3/atoms/{atom}.html")
    page.click("#measure")
    page.wait_for_selector("#effect-answer dl")
    assert "nats" in page.locator("#effect-answer").inner_text()
    page.fill("#note", "ends <i>sentences</i>")
    page.click("#note-form button")
    expect(page.locator("#note-state")).to_have_text("Saved.")
    page.reload()
    assert page.locator("#note").input_value() == "ends <i>sentences</i>"
    page.fill("#note", "")
    page.click("#note-form button")
    expect(page.locator("#note-state")).to_have_text("Saved.")


@pytest.mark.parametrize(
    "path", ["d/l3/index.html", "d/l3/atoms/5.html", "d/l3/explain.html", "d/l3/steer.html#atom=3", "index.html"]
)
def test_axe_finds_nothing_serious(watched, address, path):
    for scheme in ("light", "dark"):
        page = watched(color_scheme=scheme, bypass_csp=True).page
        page.goto(f"{address}/{path}")
        if "explain" in path:
            page.click("#explain button")
            page.wait_for_selector("#answer:not([hidden])")
            page.locator(".piece button").first.click()
            page.wait_for_selector("#next th:nth-child(3)")
        assert serious(page) == [], scheme


@pytest.mark.parametrize(
    "path", ["d/l3/index.html", "d/l3/atoms/5.html", "d/l3/explain.html", "d/l3/steer.html#atom=3"]
)
def test_pages_fit_a_phone(watched, address, path):
    page = watched(viewport={"width": 375, "height": 700}).page
    page.goto(f"{address}/{path}")
    if "explain" in path:
        page.click("#explain button")
        page.wait_for_selector("#answer:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    if "atoms" in path:
        page.evaluate("for (const text of document.querySelectorAll('main bdi')) text.textContent = 'w'.repeat(200)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
    if "explain" in path:
        page.locator(".piece button").first.click()
        page.wait_for_selector("#next th:nth-child(3)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.fixture(scope="module")
def compared(prepared, opener, tmp_path_factory):
    """The same dictionary beside results of comparisons, one of which no version ever wrote."""
    folder = tmp_path_factory.mktemp("compared")
    values = [[1, 0.5, 0.25, float("nan")], [0.5, 1, 0.125, 0.5], [0.25, 0.125, 1, 0.75], [None, 0.5, 0.75, 1]]
    matrix = {"measure": "cka", "models": ["a"] * 2 + ["b"] * 2, "sites": ["resid_post.0", "resid_post.1"] * 2}
    facts = {"matrix": {**matrix, "values": values, "whiten": False, "facts": {}}}
    write = {"layers": {"measures": {"cka": facts}}, "odd": {"measures": {}}, "huge": {"measures": {"x": 10**400}}}
    for name, content in write.items():
        (folder / f"{name}.json").write_text(json.dumps({"format": "itda.compare.layers", **content}))
    atoms = [
        {"atom": 3, "changed": True, "only_in": None, "distance": 2.5, "frequency": [0.01, 0.05], "q": 0.01,
         "source": {"text": "what was said of the matter at hand, " * 4}},
    ]  # fmt: skip
    place = {"before": "what was ", "token": "said", "after": " then", "difference": 1.39, "likelier": "done"}
    diff = {"models": ["a", "b"], "site": "resid_post.1", "joint": {"atoms": atoms}, "places": [place], "outputs": None}
    (folder / "diff.json").write_text(json.dumps({"format": "itda.compare.diff", **diff}))
    with serving(Shelf.open([prepared.folder, folder]), opener) as address:
        yield address


def test_comparisons_are_shown_whatever_else_is_there(watched, compared):
    page = watched(viewport={"width": 1280, "height": 900}).page
    page.goto(f"{compared}/d/l3/index.html")
    page.click("text=Compare")
    assert page.locator("svg rect title").nth(1).text_content() == "a 0, a 1: 0.500"
    assert page.locator("svg rect title").nth(3).text_content().endswith("unknown")
    assert "from 0 to 1" in page.locator("svg").first.get_attribute("aria-label")
    assert "1.39 nats" in page.locator(".source").inner_text()
    assert page.locator("h2").count() == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_comparisons_fit_a_phone_and_can_be_read_aloud(watched, compared, scheme):
    page = watched(viewport={"width": 375, "height": 700}, color_scheme=scheme, bypass_csp=True).page
    page.goto(f"{compared}/compare.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator("td.text").first.bounding_box()["width"] > 200
    assert serious(page) == []


def test_a_late_answer_is_no_answer_to_another_question(watched, address):
    page = watched().page
    page.goto(f"{address}/d/l3/explain.html")
    page.fill("#text", "Return the number of items.")
    page.click("#explain button")
    page.wait_for_selector("#answer:not([hidden])")
    tokens = page.locator("#tokens button")
    tokens.nth(3).click()
    held = []
    page.route("**/change", lambda route: held.append(route))
    page.locator(".piece button").first.click()
    expect(page.locator("#state")).to_contain_text("Running")
    tokens.nth(5).click()
    heading = page.locator("#token-heading").inner_text()
    with page.expect_response("**/change"):
        held[0].continue_()
    page.wait_for_timeout(50)
    assert page.locator("#token-heading").inner_text() == heading
    assert page.locator("#next th").count() == 2, "nothing was changed at this token"
    assert page.locator("#state").inner_text() == ""


def test_a_server_that_is_gone_is_said(watched, prepared, opener):
    with serving(Shelf.open([prepared.folder]), opener) as address:
        seen = watched()
        page = seen.page
        page.goto(f"{address}/d/l3/explain.html")
    page.click("#explain button")
    expect(page.locator("#state")).to_contain_text("Is itda view still running?")
    assert "CONNECTION" in seen.wrong.pop()


def test_a_browser_that_closes_does_not_stop_the_server(watched, address):
    seen = watched()
    seen.page.goto(f"{address}/d/l3/explain.html")
    seen.page.click("#explain button")
    seen.page.close()
    page = watched().page
    page.goto(f"{address}/d/l3/explain.html")
    page.click("#explain button")
    page.wait_for_selector("#answer:not([hidden])")
    assert page.locator("#tokens button").count() > 0


def test_the_keyboard_reaches_the_content(watched, address):
    page = watched().page
    page.goto(f"{address}/d/l3/index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


def test_hostile_text_never_runs(watched, hostile, model):
    def opener(book):
        return WhatIf(hostile.dictionary, model)

    with serving(Shelf.open([hostile.folder]), opener) as address:
        seen = watched()
        page = seen.page
        name = next(iter(Shelf.open([hostile.folder]).books))
        for path in (
            "index.html",
            f"d/{name}/index.html",
            *(f"d/{name}/atoms/{atom}.html" for atom in range(0, 64, 3)),
        ):
            page.goto(f"{address}/{path}")
            assert page.evaluate("window.pwned === undefined"), path
        page.goto(f"{address}/d/{name}/explain.html")
        page.fill("#text", "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>")
        page.click("#explain button")
        page.wait_for_selector("#answer:not([hidden])")
        assert page.evaluate("window.pwned === undefined")
        assert page.locator("#tokens img").count() == 0
        assert all(url.startswith(address) for url in seen.asked)
        seen.close()


def test_files_open_without_a_server(watched, prepared, opener, tmp_path):
    shelf = Shelf.open([prepared.folder])
    text = "Raise a ValueError if <b>the</b> list is empty."
    explained = {"l3": [opener(shelf.book("l3")).explain(text)]}
    count = exporting.export(shelf, tmp_path / "out", atoms=20, explained=explained)
    assert count == len(list((tmp_path / "out").rglob("*.html")))
    seen = watched()
    page = seen.page
    page.goto((tmp_path / "out" / "index.html").as_uri())
    page.click("main a >> nth=0")
    expect(page.locator("#filter")).to_be_enabled()
    page.click("th[data-column=atom] button")
    assert rows_of(page).count() == 100
    assert 20 <= page.locator("#table tbody a").count() < 100, "only atoms that have a page are links"
    for link in page.locator("#table tbody a").evaluate_all("all => all.map(one => one.href)"):
        assert Path(link.removeprefix("file://")).exists()
    page.click("text=Explain a text with it")
    page.wait_for_selector("#answer:not([hidden])")
    assert page.locator("#which").inner_text() == text
    assert page.locator(".piece").count() > 0
    page.locator(".piece a").first.click()
    assert "Atom" in page.locator("h1").inner_text()
    assert all(url.startswith("file://") for url in seen.asked)


def test_a_report_is_one_file(watched, prepared, tmp_path):
    path = exporting.report(Shelf.open([prepared.folder]), "l3", tmp_path / "report.html", atoms=5)
    seen = watched()
    seen.page.goto(path.as_uri())
    assert seen.asked == [path.as_uri()]
    assert seen.page.locator("h3").count() == 5
    assert seen.page.locator(".context").count() >= 5
    assert serious(seen.page) == []


@pytest.mark.long
def test_a_real_model_from_end_to_end(watched, llama, stories, tmp_path):
    train, _ = stories.split()
    dictionary = itda.build(llama, train, site="resid_post.2", atoms=256, tokens=4_000, method="greedy", progress=False)
    dictionary.save_pretrained(tmp_path / "stories")
    prepare(dictionary, llama, stories, name="stories", tokens=3_000, progress=False).save(tmp_path / "stories")
    matrix = compare.layer_matrix([llama], stories, measure="cka", tokens=1_000)
    write_json(tmp_path / "layers.json", "layers", {"measures": {"cka": {"matrix": matrix.to_dict()}}})
    with serving(Shelf.open([tmp_path]), lambda book: WhatIf(dictionary, llama)) as address:
        seen = watched()
        page = seen.page
        page.goto(address)
        page.click("main h2 a")
        expect(page.locator("#filter")).to_be_enabled()
        page.fill("#filter", "girl")
        expect(rows_of(page).first).to_be_visible()
        rows_of(page).first.locator("a").click()
        expect(page.locator(".contexts li").first).to_be_visible()
        expect(page.locator("blockquote").first).to_contain_text("girl")
        page.click(".crumbs a >> nth=0")
        page.click("text=Explain a text with it")
        page.fill("#text", "Once upon a time, there was a little")
        page.click("#explain button")
        page.wait_for_selector("#answer:not([hidden])")
        assert page.locator("#next td").first.inner_text().startswith("g"), "of girl"
        page.click("text=Compare")
        title = page.locator("svg rect title").nth(1).text_content()
        assert title.endswith(f"{matrix.values[0, 1]:.3f}")
        seen.close()
