"""itda store ls | verify | prune"""

from pathlib import Path
from typing import Annotated, Any

import typer

from itda.cli import common

CHECK_FAILED = 1

StoreFolder = Annotated[Path, typer.Argument(help="Folder of the store.")]
Entry = Annotated[list[str] | None, typer.Option(help="Only entries whose name begins so; may be given several times.")]


def ls(folder: StoreFolder, json: common.Json = False) -> None:
    """List the captures in a store.

    Example: `itda store ls store`
    """
    from rich.table import Table

    from itda.data.store import Store

    entries = Store(folder).listed()
    if json:
        common.print_json([entry.facts() for entry in entries])
        return
    table = Table(show_edge=False, pad_edge=False)
    for name, justify in {"entry": "left", "model": "left", "rows": "right", "width": "right", "type": "left",
                          "size": "right", "state": "left"}.items():  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for entry in entries:
        facts = entry.facts()
        if facts["problem"]:
            table.add_row(facts["entry"], "", "", "", "", "", facts["problem"])
            continue
        state = "complete" if facts["complete"] else f"{facts['rows'] / facts['wanted']:.0%} of {facts['wanted']:,}"
        table.add_row(
            facts["entry"], facts["model"], f"{facts['rows']:,}", str(facts["width"]), facts["dtype"],
            common.size(facts["bytes"]), state,
        )  # fmt: skip
    common.print_rich(table if entries else f"{folder} holds no capture yet.")


def verify(folder: StoreFolder, entry: Entry = None, json: common.Json = False) -> None:
    """Read every byte of a store and name what is damaged or missing; exit code 1 if anything is.

    Example: `itda store verify store`
    """
    from itda.data.store import Store

    found = {item.name: item.problems() for item in Store(folder).listed(entry)}
    if json:
        common.print_json(found)
    else:
        for name, problems in found.items():
            print(f"{name}: {'good' if not problems else f'{len(problems)} problems'}")
            for problem in problems:
                print(f"  {problem}")
    if any(found.values()):
        raise typer.Exit(CHECK_FAILED)


def prune(
    folder: StoreFolder,
    entry: Entry = None,
    damaged: Annotated[
        bool,
        typer.Option("--damaged", help="Remove damaged shards, so that the same capture makes them anew."),
    ] = False,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Remove captures that were never ended.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    json: common.Json = False,
) -> None:
    """Remove captures, or what is damaged or left over.

    `--entry NAME` alone removes those captures whole. Without any option, only what a stopped process has left lying
    about goes.

    Example: `itda store prune store --damaged`
    """
    from itda.data.store import Store

    store = Store(folder)
    removed: list[dict[str, Any]] = [
        {"path": str(path), "bytes": count}
        for path, count in store.prune(entry, damaged=damaged, incomplete=incomplete, dry_run=dry_run)
    ]
    if json:
        common.print_json(removed)
        return
    for item in removed:
        print(f"{'would remove' if dry_run else 'removed'} {item['path']} ({common.size(item['bytes'])})")
    if not removed:
        print("Nothing to remove.")
