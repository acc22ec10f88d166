"""itda demo"""

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from itda.cli import common
from itda.errors import OutputError

SENTENCE = "Return a new list containing all items from the iterable in ascending order."


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("itda-demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier demo wrote.")] = False,
    json: common.Json = False,
) -> None:
    """Build, evaluate and explain on the small model that ships with itda; needs no network and under a minute.

    Example: `itda demo --out itda-demo`
    """
    from itda.building import build
    from itda.data.corpus import Corpus
    from itda.data.files import MANIFEST, write_text
    from itda.evaluation import evaluate
    from itda.explaining import explain

    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists. Choose another folder with --out, or replace it with --overwrite.")
    if out.exists() and not (out / "dictionary" / MANIFEST).exists():
        raise OutputError(f"{out} was not written by itda demo, so nothing in it is replaced. Choose another folder.")
    model = common.open_model(common.EMBEDDED)
    train, held_out = Corpus.embedded().split(held_out=0.1, seed=0)
    dictionary = build(model, train, site="resid_post.3", atoms=1024, tokens=50_000)
    report = evaluate(dictionary, model, held_out, tokens=10_000)
    explanation = explain(dictionary, model, SENTENCE)
    dictionary.save_pretrained(out / "dictionary", overwrite=overwrite)
    write_text(out / "report.json", json_format.dumps(report.to_json(), indent=2))
    write_text(out / "explanation.json", json_format.dumps(explanation.to_json(), indent=2))
    write_text(out / "explanation.svg", explanation.to_svg())
    if json:
        common.print_json({"folder": str(out), "report": report.to_json(), "explanation": explanation.to_json()})
        return
    common.print_rich(
        f"1. {dictionary!r}\n   from {train.summary}\n",
        "2. What it is worth on documents it has not seen\n",
        report,
        "\n3. One sentence as atoms: each line is a real activation, named by the text it came from\n",
        explanation,
        f"\nWritten to {out}: the dictionary, report.json, explanation.json and explanation.svg.",
        f"Look at it in the browser (extra 'view'): itda view {out / 'dictionary'}",
        f'Try next: itda explain {out / "dictionary"} "Raise a ValueError if the string is empty."',
    )
