"""itda import | export"""

from pathlib import Path
from typing import Annotated

import typer

from itda.cli import common


def import_(
    folder: Annotated[Path, typer.Argument(help="An autoencoder of SAELens, sparsify or dictionary_learning.")],
    out: common.Out,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Make a dictionary of an autoencoder of another library: its decoder's directions, with a pursuit as encoder.

    It has no sources, belongs to no model, and goes where a dictionary of a bare array does, with --model and --site.

    Example: `itda import sae-folder --out runs/sae`
    """
    from itda.adapters import autoencoders
    from itda.data.files import check_free

    check_free(out, "dictionary", overwrite=overwrite)
    dictionary = autoencoders.read(folder)
    dictionary.save_pretrained(out, overwrite=overwrite)
    if json:
        common.print_json({"folder": str(out), **dictionary.facts()})
        return
    print(f"{out}: {dictionary}")
    options = dictionary.build.options
    told = ", ".join(f"{name} {options[name]}" for name in ("model_name", "hook_name", "site") if name in options)
    print(f"  made by {dictionary.build.method}{f'; {told}' if told else ''}")
    for note in dictionary.build.notes:
        print(f"  {note}")


def export(
    folder: common.Folder,
    out: common.Out,
    model: Annotated[
        str | None,
        typer.Option(help="Name the hook as a module of this transformers model, not as TransformerLens does."),
    ] = None,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Write a dictionary as SAELens keeps an autoencoder; `itda.adapters.saelens.register()` makes it known there.

    Example: `itda export runs/l2 --out sae-folder`
    """
    from itda.adapters import saelens
    from itda.data.dictionary import Dictionary

    dictionary = Dictionary.from_pretrained(str(folder))
    opened = None if model is None else common.open_model(model)
    where = saelens.export(dictionary, out, model=opened, overwrite=overwrite)
    if json:
        common.print_json({"folder": str(where), "atoms": len(dictionary), "width": dictionary.width})
        return
    print(f"{where}: {dictionary}, as SAELens keeps an autoencoder")
    print("  from itda.adapters import saelens; saelens.register(); sae_lens.SAE.load_from_disk(...)")
