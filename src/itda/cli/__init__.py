"""The command line: parse, call once, print. Results go to stdout, progress and errors to stderr."""

import functools
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from itda import __version__
from itda.cli import (
    build,
    capture,
    common,
    compare,
    demo,
    encode,
    evaluate,
    exchange,
    explain,
    extend,
    hub,
    info,
    measure,
    merge,
    plan,
    sites,
    steer,
    store,
    view,
)
from itda.errors import ItdaError
from itda.logs import logging_to

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


def _with_exit_codes(verb: Callable[..., None]) -> Callable[..., None]:
    """The one place where an error becomes an exit code; typer sees to mistakes in the arguments itself."""

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            verb(*args, **kwargs)
        except ItdaError as error:
            print(f"itda: {error}", file=sys.stderr)
            raise typer.Exit(USER_ERROR) from error
        except BrokenPipeError:  # whoever read the output has gone, as `head` does: click ends quietly
            raise
        except OSError as error:  # what the system says of a path or a device that was named
            print(f"itda: {error}", file=sys.stderr)
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            print(
                "itda: Interrupted. Nothing is half-written; the same build or capture goes on from here.",
                file=sys.stderr,
            )
            raise typer.Exit(INTERRUPTED) from error

    return run


def _add(to: typer.Typer, *verbs: Callable[..., None]) -> None:
    for verb in verbs:
        to.command()(_with_exit_codes(verb))


_add(
    app, demo.demo, sites.sites, capture.capture, build.build, extend.extend, merge.merge, info.info, evaluate.evaluate,
    explain.explain, encode.encode, plan.plan, measure.probe, measure.read, measure.judge, measure.ablate,
    measure.stability, view.view, view.report, hub.push, hub.pull,
)  # fmt: skip
app.command("import")(_with_exit_codes(exchange.import_))
app.command("export")(_with_exit_codes(exchange.export))
stores = typer.Typer(no_args_is_help=True, help="List, check and clear out stores of captured activations.")
_add(stores, store.ls, store.verify, store.prune)
app.add_typer(stores, name="store")
comparisons = typer.Typer(no_args_is_help=True, help="Compare layers, models and dictionaries.")
_add(
    comparisons,
    compare.layers,
    compare.models,
    compare.dictionaries,
    compare.checkpoints,
    compare.diff,
    compare.translate,
)
app.add_typer(comparisons, name="compare")
steering = typer.Typer(no_args_is_help=True, help="Fit, try, explain and export steering vectors.")
_add(steering, steer.fit, steer.apply, steer.sweep, steer.explain, steer.export)
app.add_typer(steering, name="steer")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="Tell a log of progress and numbers: `tensorboard:FOLDER` or `wandb:PROJECT` (offline; WANDB_MODE "
            "decides otherwise). May be given several times."
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if log:
        try:
            context.with_resource(logging_to(*map(common.open_log, log)))
        except ItdaError as error:
            print(f"itda: {error}", file=sys.stderr)
            raise typer.Exit(USER_ERROR) from error


def main() -> None:
    """Run the command line."""
    # What takes a while and happens once a machine is said: compiling the pursuit kernel
    log = logging.getLogger("itda")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    app()
