"""itda encode"""

from typing import Annotated, Any

import typer

from itda.cli import common


def encode(
    folder: common.Folder,
    out: common.Out,
    corpus: common.CorpusPath = None,
    model: common.OtherModel = None,
    site: common.Place = None,
    tokens: Annotated[
        int | None, typer.Option(help="How many tokens, spread evenly over the documents; all by default.")
    ] = None,
    steps: common.Steps = None,
    memory: common.Memory = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    any_model: common.AnyModel = False,
    shards: common.Shards = None,
    workers: common.Workers = None,
    address: common.Address = None,
    worker_cpus: common.WorkerCpus = 1,
    worker_gpus: common.WorkerGpus = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Write the sparse codes of a corpus, with the source of every row.

    Example: `itda encode runs/l2 --corpus stories.json --out codes`
    """
    from itda import scale
    from itda.data import checkpoints
    from itda.data.dictionary import Dictionary
    from itda.data.files import check_free
    from itda.encoding import encode as encode_corpus

    check_free(out, "encoding", overwrite=overwrite)
    spread = common.scale_options(shards, workers, address, worker_cpus, worker_gpus)
    parts = out.with_name(f"{out.name}.parts")
    asked: dict[str, Any] = {
        "tokens": tokens, "steps": steps, "seed": seed, "site": site, "check_model": not any_model, "memory": memory
    }  # fmt: skip
    with common.plain_warnings():
        if spread is None:
            dictionary, loaded = common.open_both(folder, model, device, dtype, attention, tokenizer)
            texts = common.open_corpus(corpus, loaded.id, split_on, text_field, encoding_errors,
                                       chats=common.is_of_chats(dictionary))  # fmt: skip
            encoding = encode_corpus(dictionary, loaded, texts, **asked)
        else:
            dictionary = Dictionary.from_pretrained(str(folder))
            name, load = model or dictionary.model_id, common.load_options(device, dtype, attention, tokenizer)
            texts = common.open_corpus(corpus, name, split_on, text_field, encoding_errors,
                                       chats=common.is_of_chats(dictionary))  # fmt: skip
            encoding = scale.encode(dictionary, name, texts, folder=parts, load=load, **asked, **spread)
    encoding.save(out, overwrite=overwrite)
    if spread is not None:
        checkpoints.remove(parts)
    facts = {
        "folder": str(out),
        "rows": len(encoding),
        "steps": encoding.coding.steps,
        "l0": float(encoding.codes.l0.double().mean()),
        "route": encoding.codes.route,
        "unexplained": float(encoding.codes.unexplained.double().mean()),
    }
    if json:
        common.print_json(facts)
    else:
        print(f"{out}: {facts['rows']:,} codes, {facts['l0']:.1f} atoms each, {facts['unexplained']:.1%} unexplained")
