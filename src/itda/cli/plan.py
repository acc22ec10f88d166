"""itda plan"""

from typing import Annotated

import typer

from itda.cli import common


def plan(
    model: Annotated[
        str, typer.Option(help="A folder, a config.json, or a name on the hub; only the configuration is read.")
    ] = common.EMBEDDED,
    tokens: Annotated[float, typer.Option(help="How many rows, as 200000 or 1e6.")] = 1e6,
    atoms: Annotated[int | None, typer.Option(help="How many atoms; 8 times the width by default.")] = None,
    steps: common.Steps = None,
    layer: Annotated[int | None, typer.Option(help="Whose output is decomposed; the middle one by default.")] = None,
    window: common.WindowTokens = None,
    document_tokens: Annotated[float, typer.Option(help="Mean length of the documents, in tokens.")] = 500.0,
    corpus_tokens: Annotated[
        float | None, typer.Option(help="How many tokens the text has; as many as are taken by default.")
    ] = None,
    machine: Annotated[
        str, typer.Option(help="`here`, which is measured in a few seconds, or a100x8, h100x8, h200x8.")
    ] = "here",
    shards: common.Shards = None,
    workers: common.Workers = None,
    worker_cpus: Annotated[int | None, typer.Option(help="Processors of each worker.")] = None,
    store: Annotated[str | None, typer.Option(help="Keep all activations first, as bfloat16, say.")] = None,
    from_disk: Annotated[bool, typer.Option("--from-disk", help="Run the model layer by layer.")] = False,
    json: common.Json = False,
) -> None:
    """Say what a build will cost in time, memory, disk and network, before it is begun.

    Example: `itda plan --model ./model --tokens 1e6 --atoms 16384 --machine h100x8 --workers 16 --shards 64`
    """
    from itda.errors import OptionError
    from itda.planning import plan as planned

    if not 1 <= tokens < 1e18 or tokens != int(tokens):
        raise OptionError(f"tokens must be a whole number of at least 1. Got {tokens:g} instead.")
    with common.plain_warnings():
        found = planned(
            model, tokens=int(tokens), atoms=atoms, steps=steps, layer=layer, window=window,
            document_tokens=document_tokens, corpus_tokens=corpus_tokens, on=machine, shards=shards,
            workers=workers, threads=worker_cpus,
            store=store, from_disk=from_disk,
        )  # fmt: skip
    if json:
        common.print_json(found.to_json())
    else:
        common.print_rich(found)
