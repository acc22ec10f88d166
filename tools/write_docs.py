"""Write the generated pages of docs/, or check that they are up to date.

python tools/write_docs.py [--check]
"""

import argparse
import difflib
import sys
from pathlib import Path

import typer.main
from typer.cli import get_docs_for_click

from itda.cli import app

DOCS = Path(__file__).parent.parent / "docs"


def command_line_page() -> str:
    """Help of every verb, as Markdown."""
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="itda"), name="itda").strip() + "\n"


PAGES = {"cli.md": command_line_page}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = 0
    for name, make in PAGES.items():
        path, wanted = DOCS / name, make()
        found = path.read_text() if path.exists() else ""
        if found == wanted:
            continue
        stale += 1
        if check:
            sys.stdout.writelines(
                difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), str(path), "now")
            )
            print(f"{path} is out of date: run make docs")
        else:
            path.write_text(wanted)
            print(f"wrote {path}")
    return stale if check else 0


if __name__ == "__main__":
    sys.exit(main())
