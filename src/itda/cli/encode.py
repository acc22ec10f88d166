"""itda encode"""

from typing import Annotated

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
    from itda.data.files import check_free
    from itda.encoding import encode as encode_corpus

    check_free(out, "encoding", overwrite=overwrite)
    with common.plain_warnings():
        dictionary, loaded = common.open_both(folder, model, device, dtype, attention, tokenizer)
        texts = common.open_corpus(corpus, loaded.id, split_on, text_field, encoding_errors)
        encoding = encode_corpus(
            dictionary,
            loaded,
            texts,
            tokens=tokens,
            steps=steps,
            seed=seed,
            site=site,
            check_model=not any_model,
            memory=memory,
        )
    encoding.save(out, overwrite=overwrite)
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
