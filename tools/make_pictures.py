"""Make the pictures of the documentation on the embedded model: one explained sentence, and the viewer in a browser.

The viewer's need the browser of this machine (chromium) and the extra `view`.
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import itda
from itda.view import exporting
from itda.view.preparing import prepare
from itda.view.shelf import Shelf
from itda.view.what_if import WhatIf

DOCS = Path(__file__).parent.parent / "docs"
SENTENCE = "Raise a ValueError if the list is empty."
HEIGHTS = {"dictionary": 1000, "atom": 860, "explain": 860}


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
        explained = {folder.name: [WhatIf(dictionary, model).explain(SENTENCE)]}
        exporting.export(Shelf.open([folder]), Path(place) / "pages", atoms=len(dictionary), explained=explained)
        take(Path(place) / "pages" / "d" / folder.name, dictionary.find(token="Error")[0].atom)


def take(pages: Path, atom: int) -> None:
    """Pictures of the pages that were written out."""
    paths = {"dictionary": "index.html", "atom": f"atoms/{atom}.html", "explain": "explain.html"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, path in paths.items():
            page = browser.new_page(viewport={"width": 1120, "height": HEIGHTS[name]})
            page.goto((pages / path).as_uri())
            page.wait_for_timeout(500)
            page.screenshot(path=DOCS / f"view-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
