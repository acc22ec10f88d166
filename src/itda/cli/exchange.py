"""itda import | export"""

from pathlib import Path
from typing import Annotated

import typer

from itda.cli import common
from itda.errors import OptionError
from itda.options import one_of


def import_(
    folder: Annotated[Path, typer.Argument(help="An autoencoder of SAELens, sparsify or dictionary_learning.")],
    out: common.Out,
    model: Annotated[str | None, typer.Option(help="The model it was trained on.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="With --model: text, of which each direction gets the place most like it.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Where in the model, if the folder does not say.")] = None,
    tokens: Annotated[int, typer.Option(help="So many tokens of the text, spread over its documents.")] = 20_000,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Make a dictionary of an autoencoder of another library: its decoder's directions, with a pursuit as encoder.

    It has no sources, belongs to no model, and goes where a dictionary of a bare array does, with --model and --site.
    With a model and a text, each direction shows the place in it that is most like it, and belongs to the model.

    Example: `itda import sae-folder --model gpt2 --corpus texts.json --out runs/sae`
    """
    from itda.adapters import autoencoders
    from itda.adapters.directions import with_examples
    from itda.capturing import capture
    from itda.data.files import check_free

    check_free(out, "dictionary", overwrite=overwrite)
    dictionary = autoencoders.read(folder)
    if model is None and (corpus is not None or site is not None):
        raise OptionError("--corpus and --site are for examples from a model: give --model too.")
    if dictionary.provenance is not None and model is not None:
        raise OptionError("These directions know their texts and their model. Leave --model, --corpus and --site out.")
    if model is not None:
        place = site or dictionary.build.options.get("site")
        if place is None:
            raise OptionError("The folder does not say where in the model it was trained. Give --site.")
        opened = common.open_model(model)
        text = common.open_corpus(corpus, opened.id, split_on, text_field, encoding_errors)
        with common.plain_warnings():
            dictionary = with_examples(dictionary, capture(opened, text, place, tokens=tokens))
    dictionary.save_pretrained(out, overwrite=overwrite)
    if json:
        common.print_json({"folder": str(out), **dictionary.facts()})
        return
    print(f"{out}: {dictionary}")
    options = dictionary.build.options
    told = ", ".join(f"{name} {options[name]}" for name in ("model_name", "hook_name", "site") if name in options)
    print(f"  made by {dictionary.build.method}{f'; {told}' if told else ''}")
    for note in dictionary.build.notes:
        print(f"  {note}")


def export(
    folder: common.Folder,
    out: common.Out,
    to: Annotated[str, typer.Option(help="`saelens`, or `neuronpedia`, which needs a text and names.")] = "saelens",
    model: Annotated[
        str | None,
        typer.Option(
            help="For saelens: name the hook as a module of this transformers model, not as TransformerLens does. For "
            "neuronpedia: the model, if not the one recorded in the dictionary."
        ),
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="For neuronpedia: text to show atoms in.")] = None,
    tokens: Annotated[int, typer.Option(help="For neuronpedia: so many tokens of it.")] = 100_000,
    model_id: Annotated[str | None, typer.Option(help="For neuronpedia: what it calls the model.")] = None,
    source_set: Annotated[str | None, typer.Option(help="For neuronpedia: as itda-res-16k, without the layer.")] = None,
    author: Annotated[str | None, typer.Option(help="For neuronpedia: who is shown as the creator.")] = None,
    title: Annotated[str | None, typer.Option(help="For neuronpedia: of the release.")] = None,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Write a dictionary as SAELens keeps an autoencoder, or as Neuronpedia exports one.

    `itda.adapters.saelens.register()` makes it known to SAELens.

    Example: `itda export runs/l2 --out sae-folder`
    """
    from itda.adapters import saelens
    from itda.data.dictionary import Dictionary

    one_of("to", to, ("saelens", "neuronpedia"))
    names = {"--corpus": corpus, "--model-id": model_id, "--source-set": source_set, "--author": author}
    given = [name for name, value in names.items() if value is not None]
    if to == "saelens" and given:
        raise OptionError(f"{given[0]} is for --to neuronpedia. Leave it out.")
    if to == "neuronpedia" and (missing := [name for name in names if name not in given]):
        raise OptionError(f"Neuronpedia shows atoms in a text, under names: give {', '.join(missing)} too.")
    dictionary = Dictionary.from_pretrained(str(folder))
    if to == "saelens":
        opened = None if model is None else common.open_model(model)
        where = saelens.export(dictionary, out, model=opened, overwrite=overwrite)
        how = "as SAELens keeps an autoencoder"
    else:
        from itda.view import neuronpedia
        from itda.view.preparing import prepare

        release = neuronpedia.Release(
            model=str(model_id), source_set=str(source_set), name=str(source_set), title=title or str(source_set),
            author=str(author),
        )  # fmt: skip
        neuronpedia.place_of(dictionary, out, release, overwrite=overwrite)
        opened = common.open_model(model or dictionary.model_id)
        text = common.open_corpus(corpus, opened.id, None, "text", "strict", chats=common.is_of_chats(dictionary))
        with common.plain_warnings():
            records = prepare(dictionary, opened, text, tokens=tokens)
        where = neuronpedia.export(dictionary, records, out, release, overwrite=overwrite)
        how = "as Neuronpedia exports one"
    if json:
        common.print_json({"folder": str(where), "atoms": len(dictionary), "width": dictionary.width})
        return
    print(f"{where}: {dictionary}, {how}")
    if to == "saelens":
        print("  from itda.adapters import saelens; saelens.register(); sae_lens.SAE.load_from_disk(...)")
