"""itda explain"""

from pathlib import Path
from typing import Annotated

import typer

from itda.cli import common


def explain(
    folder: common.Folder,
    text: Annotated[str, typer.Argument(help="Any text.")],
    model: common.OtherModel = None,
    site: common.Place = None,
    steps: common.Steps = None,
    svg: Annotated[Path | None, typer.Option(help="Also write the table as a picture.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture if it exists.")] = False,
    any_model: common.AnyModel = False,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Write each token of a text as a sum of atoms, with the text that each atom came from.

    Example: `itda explain runs/l2 "Once upon a time"`
    """
    from itda.data.files import write_text
    from itda.errors import OutputError
    from itda.explaining import explain as explain_text

    if svg and svg.exists() and not overwrite:
        raise OutputError(f"{svg} exists. Choose another file, or replace it with --overwrite.")
    with common.plain_warnings():
        dictionary, loaded = common.open_both(folder, model, device, dtype, attention, tokenizer)
        dictionary.prepare(memory=0)  # for one text, the inner products of all atoms would cost more than they save
        explanation = explain_text(dictionary, loaded, text, steps=steps, site=site, check_model=not any_model)
    if svg:
        write_text(svg, explanation.to_svg())
    if json:
        common.print_json(explanation.to_json())
    else:
        common.print_rich(explanation)
