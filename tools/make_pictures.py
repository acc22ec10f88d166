"""Make the pictures of the documentation: one explained sentence on the embedded model."""

from pathlib import Path

import itda

DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    model = itda.load_model("embedded")
    train, _ = itda.Corpus.embedded().split(held_out=0.1, seed=0)
    dictionary = itda.build(model, train, site="resid_post.3", atoms=1024, tokens=50_000)
    explanation = itda.explain(dictionary, model, "Raise a ValueError if the list is empty.")
    (DOCS / "explained.svg").write_text(explanation.to_svg(width=120) + "\n")


if __name__ == "__main__":
    main()
