"""The command line: parse, call once, print. Results go to stdout, progress and errors to stderr."""

import sys
from typing import Annotated

import click
import typer

from itda import __version__
from itda.cli import build, demo, encode, evaluate, explain, info, sites
from itda.errors import ItdaError

USER_ERROR, INTERRUPTED = 2, 130

app = typer.Typer(
    name="itda",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Write a language model's activations as sparse sums of real activations, each with the text it came from.\n\n"
    "Start with `itda demo`; it needs no network. Exit codes: 0 done, 1 a check that was asked for failed, "
    "2 the user's mistake, 130 interrupted.",
)
for verb in (demo.demo, sites.sites, build.build, info.info, evaluate.evaluate, explain.explain, encode.encode):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the one place where an error becomes an exit code."""
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("Interrupted. Nothing was written.", file=sys.stderr)
        code = INTERRUPTED
    except ItdaError as error:
        print(f"itda: {error}", file=sys.stderr)
        code = USER_ERROR
    sys.exit(code if isinstance(code, int) else 0)
