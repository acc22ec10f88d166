"""Make the pictures of the documentation on the embedded model: one explained sentence, and the viewer in a browser.

PYTHONPATH=tests python tools/make_pictures.py

The viewer's need the browser of this machine (chromium) and the extra `view`.
"""

import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import itda
from itda import steer
from itda.view.preparing import prepare
from itda.view.shelf import Shelf
from itda.view.what_if import WhatIf
from support.browser import FLAGS, executable, serving

DOCS = Path(__file__).parent.parent / "docs"
SENTENCE = "Raise a ValueError if the list is empty."
PROMPT = "If the file cannot be opened,"
PAIRS = [
    ("Raise an error if it is empty.", "Return it if it is empty."),
    ("An exception is raised.", "A list is returned."),
    ("It fails with an OSError.", "It gives the number of bytes."),
]
HEIGHTS = {"dictionary": 1000, "atom": 860, "explain": 860, "steer": 1000}


def main() -> None:
    model = itda.load_model("embedded")
    corpus = itda.Corpus.embedded()
    train, _ = corpus.split(held_out=0.1, seed=0)
    dictionary = itda.build(model, train, site="resid_post.3", atoms=1024, tokens=50_000)
    explanation = itda.explain(dictionary, model, SENTENCE)
    (DOCS / "explained.svg").write_text(explanation.to_svg(width=120) + "\n")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "python-docs"
        dictionary.save_pretrained(folder)
        prepare(dictionary, model, corpus, name=folder.name).save(folder)
        steer.SteeringVector.fit(model, PAIRS, ["resid_post.3"], read="tokens").save(Path(place) / "errors.safetensors")
        with serving(Shelf.open([Path(place)]), lambda book: WhatIf(dictionary, model)) as address:
            take(f"{address}/d/{folder.name}", dictionary.find(token="Error")[0].atom)


def take(address: str, atom: int) -> None:
    """Pictures of the pages, after what a person would do there."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        paths = {"dictionary": "index.html", "atom": f"atoms/{atom}.html", "explain": "explain.html"}
        for name, path in {**paths, "steer": f"steer.html#atom={atom}"}.items():
            page = browser.new_page(viewport={"width": 1120, "height": HEIGHTS[name]})
            page.goto(f"{address}/{path}")
            if name == "explain":
                explain(page)
            if name == "steer":
                go_on(page, atom)
            page.wait_for_timeout(500)
            page.screenshot(path=DOCS / f"view-{name}.png")
        browser.close()


def explain(page: Any) -> None:
    """A sentence, and one atom of its last token left out."""
    page.fill("#text", SENTENCE)
    page.click("#explain button")
    page.wait_for_selector("#answer:not([hidden])")
    page.locator("#tokens button").nth(4).click()
    page.locator(".piece button").first.click()
    page.wait_for_selector("#next th:nth-child(3)")


def go_on(page: Any, atom: int) -> None:
    """A prompt with a vector and an atom."""
    page.fill("#text", PROMPT)
    page.wait_for_selector(f"[data-atom='{atom}']")
    for row, strength in ((f"[data-atom='{atom}']", 0.1), ("[data-vector]", 0.3)):
        slider = page.locator(f"{row} input")
        slider.evaluate(
            "(one, to) => { one.value = to; one.dispatchEvent(new Event('input', { bubbles: true })); }", strength
        )
    page.click("#steer button[type=submit]")
    page.wait_for_selector("#answer:not([hidden])")


if __name__ == "__main__":
    main()
