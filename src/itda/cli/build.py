"""itda build"""

from typing import Annotated, Any

import typer

from itda.cli import common


def build(
    out: common.Out,
    model: common.ModelName = common.EMBEDDED,
    corpus: common.CorpusPath = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="A place such as resid_post.2, the middle layer by default; several make a dictionary each."),
    ] = None,
    atoms: Annotated[
        int | None, typer.Option(help="How many atoms; 8 times the width by default, unless a threshold is given.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="How many tokens to read, spread evenly over the documents; all by default.")
    ] = None,
    steps: common.Steps = None,
    method: Annotated[
        str, typer.Option(help="`greedy`, worst explained first, or `paper`, the published rule.")
    ] = "greedy",
    max_unexplained: Annotated[
        float | None,
        typer.Option(help="Threshold of greedy, instead of a size: the share of a row that may stay unexplained."),
    ] = None,
    max_cosine_gap: Annotated[
        float | None, typer.Option(help="Threshold of paper: 1 - cos(x, x^); the public code's is 2 / width times it.")
    ] = None,
    center: Annotated[
        bool | None, typer.Option("--center/--no-center", help="Take the mean off first; on by default, off for paper.")
    ] = None,
    block: Annotated[int | None, typer.Option(help="Rows looked at together.")] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the documents that is left for evaluation; 0 to build from all.")
    ] = 0.1,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    memory: common.Memory = None,
    seed: common.Seed = 0,
    window: Annotated[int | None, typer.Option(help="Tokens the model reads at once; at most 128 by default.")] = None,
    bos: Annotated[
        bool | None,
        typer.Option(
            "--bos/--no-bos", help="Begin every window with the begin token; by default as the tokenizer does."
        ),
    ] = None,
    special_tokens: Annotated[str, typer.Option(help="`drop` or `keep` tokens that stand for no text.")] = "drop",
    sinks: Annotated[str, typer.Option(help="`drop` or `keep` tokens whose norm is far above the median.")] = "drop",
    batch_size: Annotated[int, typer.Option(help="Windows in one forward pass, with --no-canonical.")] = 32,
    canonical: Annotated[
        bool,
        typer.Option(
            "--canonical/--no-canonical",
            help="Forward passes of one fixed shape, so that the same text gives the same bits.",
        ),
    ] = True,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Build a dictionary of real activations.

    Example: `itda build ./model --corpus stories.json --site resid_post.2 --atoms 1024 --out runs/l2`
    """
    from itda.building import build_many
    from itda.data.files import check_free

    targets = {name: out / name if site and len(site) > 1 else out for name in site or [""]}
    for target in targets.values():
        check_free(target, "dictionary", overwrite=overwrite)
    texts = common.open_corpus(corpus, model, split_on, text_field, encoding_errors)
    found = texts.summary
    if held_out:
        texts, _ = texts.split(held_out=held_out, seed=seed)
    with common.plain_warnings():
        loaded = common.open_model(model, device, dtype, attention, tokenizer)
        built = build_many(
            loaded, texts, sites=site or [loaded.middle_site], atoms=atoms, tokens=tokens, steps=steps, method=method,
            max_unexplained=max_unexplained, max_cosine_gap=max_cosine_gap, center=center, block=block, memory=memory,
            seed=seed, window=window, bos=bos, special_tokens=special_tokens, sinks=sinks, batch_size=batch_size,
            canonical=canonical,
        )  # fmt: skip
    said: list[dict[str, Any]] = []
    for name, dictionary in built.items():
        folder = targets[name] if site else out
        dictionary.save_pretrained(folder, overwrite=overwrite)
        said.append({"folder": str(folder), **dictionary.facts()})
        if not json:
            counts = dictionary.facts()["provenance"]["capture"]["counts"]
            print(f"{folder}: {dictionary}")
            print(f"  text: {found}; {found.documents - len(texts):,} documents held out")
            print(f"  {dictionary.build.rows:,} rows; left out {_left_out(counts, special_tokens, sinks)}")
            print(
                f"  {dictionary.build.unexplained:.1%} unexplained on those rows; "
                f"smallest novelty {dictionary.build.threshold:.3f}"
            )
            for note in dictionary.build.notes:
                print(f"  note: {note}")
    if json:
        common.print_json(said[0] if len(said) == 1 else said)
    else:
        print(f"Next: itda evaluate {next(iter(targets.values()))} --corpus {corpus or common.EMBEDDED}")


def _left_out(counts: dict[str, int], special_tokens: str, sinks: str) -> str:
    dropped = {"special": special_tokens, "sinks": sinks}
    return ", ".join(f"{counts[name]:,} {name}" if what == "drop" else f"no {name}" for name, what in dropped.items())
