"""itda merge"""

from pathlib import Path
from typing import Annotated

import typer

from itda.cli import common

_SAMPLE_ROWS = 32_768


def merge(
    folders: Annotated[list[Path], typer.Argument(help="Dictionaries of one place, built from disjoint text.")],
    out: common.Out,
    atoms: Annotated[
        int | None, typer.Option(help="How many atoms are kept; by default all that are no repeat of others.")
    ] = None,
    max_unexplained: Annotated[
        float | None, typer.Option(help="Keep no atom of which the others leave less unexplained; without --store.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Keep those that carry the most energy of a sample of these activations.")
    ] = None,
    entry: Annotated[str | None, typer.Option(help="Which capture of the store, by the beginning of its name.")] = None,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Make one dictionary from several, keeping the best of their atoms.

    Example: `itda merge runs/part-1 runs/part-2 --atoms 1024 --store store --out runs/merged`
    """
    from itda.building import merge as merged
    from itda.data.dictionary import Dictionary
    from itda.data.files import check_free
    from itda.data.store import Store

    check_free(out, "dictionary", overwrite=overwrite)
    parts = [Dictionary.from_pretrained(str(folder)) for folder in folders]
    rows = None
    if store is not None:
        stored = Store(store).open(parts[0].site if parts[0].provenance else None, entry=entry)
        parts[0].check_activations(stored)
        rows = stored.sample(_SAMPLE_ROWS)
    with common.plain_warnings():
        dictionary = merged(parts, atoms=atoms, max_unexplained=max_unexplained, rows=rows)
    dictionary.save_pretrained(out, overwrite=overwrite)
    if json:
        common.print_json({"folder": str(out), **dictionary.facts()})
        return
    print(f"{out}: {dictionary}")
    print(f"  the best of {sum(map(len, parts)):,} atoms of {len(parts)} dictionaries")
    if dictionary.build.unexplained is None:
        print(
            "  not measured on any rows, and how many atoms a code has is as in the parts; --store measures and sets it"
        )
    else:
        print(f"  {dictionary.build.unexplained:.1%} unexplained on the rows of the store")
