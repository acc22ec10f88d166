"""itda capture"""

from pathlib import Path
from typing import Annotated, Any

import typer

from itda.cli import common


def capture(
    out: Annotated[Path, typer.Option(help="Folder of the store; made if there is nothing.")],
    model: common.ModelName = common.EMBEDDED,
    corpus: common.CorpusPath = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="A place such as resid_post.2, the middle layer by default; several are taken in one pass."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="How many tokens, spread evenly over the documents; all by default.")
    ] = None,
    store_dtype: Annotated[
        str | None, typer.Option(help="What rows are kept as: float16, bfloat16 or float32; the model's by default.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the documents that is left for evaluation; 0 to capture all.")
    ] = 0.1,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    window: common.WindowTokens = None,
    bos: common.Begin = None,
    role: common.Roles = None,
    special_tokens: common.SpecialTokens = "drop",
    sinks: common.Sinks = "drop",
    every: common.Every = 60.0,
    shards: common.Shards = None,
    workers: common.Workers = None,
    address: common.Address = None,
    worker_cpus: common.WorkerCpus = 1,
    worker_gpus: common.WorkerGpus = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Keep a model's activations on disk, to build from and evaluate on as often as wanted.

    After whatever stopped it, the same command goes on; once it is complete, no more than a reading of the text.

    Example: `itda capture ./model --corpus stories.json --site resid_post.2 --out store`
    """
    from itda import scale
    from itda.capturing import capture as capture_to
    from itda.data.store import Store

    store = Store(out, create=True)
    there = {entry.name for entry in store.entries() if entry.complete}
    texts = common.open_corpus(corpus, model, split_on, text_field, encoding_errors, chats=bool(role))
    if held_out:
        texts, _ = texts.split(held_out=held_out, seed=seed)
    spread = common.scale_options(shards, workers, address, worker_cpus, worker_gpus)
    asked: dict[str, Any] = {
        "store": store, "dtype": store_dtype, "every": every, "tokens": tokens, "seed": seed, "window": window,
        "bos": bos, "roles": role or None, "special_tokens": special_tokens, "sinks": sinks,
    }  # fmt: skip
    with common.plain_warnings():
        if spread is None:
            loaded = common.open_model(model, device, dtype, attention, tokenizer)
            stored = list(capture_to(loaded, texts, site or [loaded.middle_site], **asked).values())
        else:
            load = common.load_options(device, dtype, attention, tokenizer)
            joined = scale.capture(model, texts, site, load=load, **asked, **spread)
            stored = [part for one in (joined.values() if site else [joined]) for part in one.parts]
    if json:
        common.print_json([{**entry.facts(), "was_there": entry.name in there} for entry in stored])
        return
    for entry in stored:
        counts = entry.provenance.capture["counts"]
        print(f"{entry.folder}: {entry}{', was there already' if entry.name in there else ''}")
        print(f"  {common.size(entry.size)}; left out {common.left_out(counts, special_tokens, sinks)}")
    several = len({entry.site for entry in stored}) > 1
    print(f"Next: itda build --store {out}{' --site SITE' if several else ''} --out DICTIONARY")
