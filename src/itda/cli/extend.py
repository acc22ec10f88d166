"""itda extend"""

from typing import Annotated

import typer

from itda.cli import common


def extend(
    folder: common.Folder,
    out: common.Out,
    atoms: Annotated[int, typer.Option(help="How many more.")],
    corpus: common.CorpusPath = None,
    tokens: Annotated[
        int | None, typer.Option(help="How many tokens to take, spread evenly over the documents; all by default.")
    ] = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    model: common.OtherModel = None,
    any_model: common.AnyModel = False,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Add atoms from other text to a dictionary; the old ones keep their numbers.

    Example: `itda extend runs/l2 --corpus more.json --atoms 256 --out runs/l2-more`
    """
    from itda.building import extend as extended
    from itda.data.files import check_free

    check_free(out, "dictionary", overwrite=overwrite)
    with common.plain_warnings():
        dictionary, loaded = common.open_both(folder, model, device, dtype, attention, tokenizer)
        texts = common.open_corpus(corpus, loaded.id, split_on, text_field, encoding_errors,
                                   chats=common.is_of_chats(dictionary))  # fmt: skip
        found = extended(dictionary, loaded, texts, atoms=atoms, tokens=tokens, seed=seed, check_model=not any_model)
    found.save_pretrained(out, overwrite=overwrite)
    if json:
        common.print_json({"folder": str(out), **found.facts()})
        return
    print(f"{out}: {found}")
    print(f"  {len(found) - len(dictionary):,} more, from number {len(dictionary):,} on")
    print(f"  {found.build.unexplained:.1%} unexplained on the rows they were chosen from")
    for note in found.build.notes:
        print(f"  note: {note}")
