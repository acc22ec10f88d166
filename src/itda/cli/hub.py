"""itda push | pull"""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from itda.cli import common
from itda.errors import OptionError

Repository = Annotated[str, typer.Argument(help="Its name on the Hugging Face hub, as user/name.")]


def push(
    folder: common.Folder,
    repository: Repository,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Held-out text: the card then has a table of fidelity, and a picture of it."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Held-out tokens to measure on.")] = 20_000,
    texts: Annotated[
        str,
        typer.Option(help="`window`, the text around each atom, or `none`, the atoms' tokens alone: for private text."),
    ] = "window",
    license: Annotated[str | None, typer.Option("--license", help="As the hub names them: mit, cc-by-4.0, ...")] = None,
    private: Annotated[bool | None, typer.Option("--private/--public", help="What a new repository is.")] = None,
    model: common.OtherModel = None,
    site: common.Place = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    device: common.Device = None,
    dtype: common.Dtype = None,
    json: common.Json = False,
) -> None:
    """Upload a dictionary to the Hugging Face hub, with a card that says what it is.

    Example: `itda push runs/l2 user/name --corpus stories.json --license mit`
    """
    from itda import publishing
    from itda.data.dictionary import Dictionary
    from itda.evaluation import evaluate

    if corpus is None and any(given is not None for given in (model, site, split_on, device, dtype)):
        raise OptionError("Without --corpus nothing is measured. Give it too, or leave the model's options out.")
    with common.plain_warnings():
        dictionary, report = Dictionary.from_pretrained(str(folder)), None
        if corpus is not None:
            opened = common.open_model(model or dictionary.model_id, device, dtype)
            text = common.open_corpus(corpus, opened.id, split_on, text_field, encoding_errors,
                                      chats=common.is_of_chats(dictionary))  # fmt: skip
            report = evaluate(dictionary, opened, text, tokens=tokens, site=site)
        address = publishing.push(
            dictionary, repository, report=report, texts=cast("Any", texts), license=license, private=private
        )
    if json:
        common.print_json({"repository": repository, "address": address, "texts": texts})
        return
    print(address)
    print(f"  itda pull {repository} --out runs/{repository.rpartition('/')[2]}")


def pull(
    repository: Repository,
    out: common.Out,
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit.")] = None,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Download a dictionary from the Hugging Face hub; files that are there already are not fetched again.

    Example: `itda pull user/name --out runs/l2`
    """
    from itda.data.dictionary import Dictionary
    from itda.data.files import check_free

    check_free(out, "dictionary", overwrite=overwrite)
    dictionary = Dictionary.from_pretrained(repository, revision=revision)
    dictionary.save_pretrained(out, overwrite=overwrite)
    if json:
        common.print_json({"folder": str(out), **dictionary.facts()})
        return
    print(f"{out}: {dictionary}")
