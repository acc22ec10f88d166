"""itda compare layers | models | dictionaries | checkpoints | diff | translate"""

from pathlib import Path
from typing import Annotated, Any

import typer

from itda.cli import common
from itda.errors import OptionError, ShapeError

Out = Annotated[Path | None, typer.Option(help="Write everything that was found as JSON, which `itda view` shows.")]
Models = Annotated[
    list[str],
    typer.Argument(help="Models: folders, names on the Hugging Face hub; of one alone, its layers beside each other."),
]


def layers(
    models: Models,
    corpus: common.CorpusPath = None,
    measure: Annotated[
        list[str] | None, typer.Option(help="How layers are compared; may be given several times; all by default.")
    ] = None,
    sites: Annotated[
        str, typer.Option(help="A kind of place, at every layer: resid_post, mlp_out, ...")
    ] = "resid_post",
    tokens: Annotated[int, typer.Option(help="Tokens to compare on, the same in all models.")] = 20_000,
    atoms: Annotated[
        int | None,
        typer.Option(
            help="For overlap: no dictionary of a layer has more; by default they have as many as the rows give, which "
            "tells layers apart better."
        ),
    ] = None,
    whiten: Annotated[bool, typer.Option("--whiten", help="Give every direction the same variance first.")] = False,
    matrix: Annotated[bool, typer.Option("--matrix", help="Print how alike all layers are too.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw how alike all layers are, as .svg, .png or .pdf; a file for each measure."),
    ] = None,
    out: Out = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    json: common.Json = False,
) -> None:
    """Compare all layers of several models, and say how often the same layer is the most alike.

    The last lines are measures of a single number of each layer: any other should beat them.

    Example: `itda compare layers gpt2-s21 gpt2-s49 gpt2-s81 --corpus texts.json --measure cka`
    """
    from itda import compare
    from itda.compare.known import known
    from itda.compare.similarities import SCALARS
    from itda.view import figures

    if plot is not None:
        figures.check(plot)
    _check(out)
    asked = measure or list(compare.measures())
    wanted = dict.fromkeys([*asked, *SCALARS])
    text = common.open_corpus(corpus, models[0], split_on, text_field, encoding_errors)
    with common.plain_warnings():
        opened = [common.open_model(name, device, dtype, attention) for name in models]
        found = compare.layer_matrices(
            opened, text, measures=list(wanted), sites=sites, tokens=tokens, atoms=atoms, whiten=whiten, seed=seed
        )
    if plot is not None:
        for name in asked:
            where = plot if len(asked) == 1 else plot.with_stem(f"{plot.stem}-{name}")
            figures.save(figures.layer_heatmap(found[name]), where)
    matched, unmatched = {}, ""
    try:
        matched = {name: compare.match_layers(one) for name, one in found.items() if len(models) > 1}
    except ShapeError as error:
        unmatched = str(error)
    facts: dict[str, dict[str, Any]] = {name: {"matrix": one.to_dict()} for name, one in found.items()}
    for name, match in matched.items():
        facts[name]["matching"] = match.to_dict()
        if name != asked[0]:
            difference, ends = compare.paired_difference(matched[asked[0]], match)
            facts[name]["ahead"] = known({"measure": asked[0], "difference": difference, "interval": ends})
    _keep(out, "layers", {"measures": facts})
    if json:
        common.print_json(facts)
        return
    if matrix or not matched:
        common.print_rich(*(found[name] for name in asked))
    if matched:
        common.print_rich(compare.accuracy_table(matched[name] for name in wanted))
    if unmatched:
        common.print_rich(f"Which layers are the same is not counted. {unmatched}")
    for name, one in found.items():
        if "missing" in one.facts:
            common.print_rich(f"{name}: {one.facts['missing']}")


def dictionaries(
    first: common.Folder,
    second: common.Folder,
    untrained: Annotated[
        Path | None, typer.Option(help="The dictionary of an untrained model, built alike: what chance gives.")
    ] = None,
    store: Annotated[
        list[Path] | None,
        typer.Option(
            help="The store that they were built from; twice, if from two. Chance then keeps token and position, not "
            "the token alone; two tokenizers need it."
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Go on although they were not built from the same text with the same options."),
    ] = False,
    by_direction: Annotated[
        bool,
        typer.Option(
            "--by-direction",
            help="Match atoms by their cosine, not by their texts; for dictionaries of one place, autoencoders too.",
        ),
    ] = False,
    out: Out = None,
    json: common.Json = False,
) -> None:
    """Count the atoms that two dictionaries share, beside how many they would by chance.

    Example: `itda compare dictionaries runs/a runs/b`
    """
    from itda import compare
    from itda.data.dictionary import Dictionary
    from itda.data.store import Store

    _check(out)
    one, other = (Dictionary.from_pretrained(folder) for folder in (first, second))
    if by_direction:
        if store or untrained or anyway:
            raise OptionError("--by-direction looks at atoms alone: leave --store, --untrained and --anyway out.")
        alignment = compare.align(one, other)
        _keep(out, "directions", alignment.to_dict())
        _show(alignment, json)
        return
    null = None if untrained is None else Dictionary.from_pretrained(untrained)
    candidates = None
    if store:
        candidates = Store(store[0]).open(one.site).sources, Store(store[-1]).open(other.site).sources
    found = compare.overlap(one, other, candidates=candidates, untrained=null, anyway=anyway)
    _keep(out, "dictionaries", found.to_dict())
    _show(found, json)


def translate(
    folder: common.Folder,
    other: Annotated[str, typer.Argument(help="The other model: a folder or a name on the Hugging Face hub.")],
    corpus: common.CorpusPath = None,
    site: Annotated[str | None, typer.Option(help="Where in the other model; the same place by default.")] = None,
    model: common.OtherModel = None,
    tokens: Annotated[int, typer.Option(help="Held-out tokens to measure on.")] = 5_000,
    steps: common.Steps = None,
    out: Annotated[
        Path | None, typer.Option(help="Save the atoms as the other model has them: a dictionary of that model.")
    ] = None,
    overwrite: common.Overwrite = False,
    report: Annotated[
        Path | None, typer.Option(help="Write what was measured as JSON, which `itda view` shows.")
    ] = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    json: common.Json = False,
) -> None:
    """Take the atoms of a dictionary to another model, and say how well codes give that model's activations.

    The corpus has the documents that the dictionary was built from, and others to measure on.

    Example: `itda compare translate runs/l2 gpt2-s49 --corpus texts.json`
    """
    from itda import compare
    from itda.data.files import check_free

    if out is not None:
        check_free(out, "dictionary", overwrite=overwrite)
    _check(report)
    with common.plain_warnings():
        dictionary, own = common.open_both(folder, model, device, dtype, attention)
        text = common.open_corpus(corpus, own.id, split_on, text_field, encoding_errors,
                                  chats=common.is_of_chats(dictionary))  # fmt: skip
        second = common.open_model(other, device, dtype, attention)
        there = compare.transplant(dictionary, second, text, site)
        if out is not None:
            there.save_pretrained(out, overwrite=overwrite)
        found = compare.measure_translation(there, own, second, text, tokens=tokens, steps=steps, seed=seed)
    _keep(report, "translate", found.to_dict())
    _show(found, json)


def models(
    models: Models,
    corpus: common.CorpusPath = None,
    untrained: Annotated[
        str | None, typer.Option(help="An untrained model, as it is named above: what text alone gives.")
    ] = None,
    sites: Annotated[
        str, typer.Option(help="A kind of place, at every layer: resid_post, mlp_out, ...")
    ] = "resid_post",
    tokens: Annotated[int, typer.Option(help="Tokens to compare on, the same in all models.")] = 20_000,
    atoms: Annotated[int, typer.Option(help="Of each model, over all its layers.")] = 4096,
    out: Out = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    json: common.Json = False,
) -> None:
    """Compare whole models: dictionaries of all their layers together, within and across architectures.

    Example: `itda compare models gpt2-s21 gpt2-s49 gpt2-wide --corpus texts.json`
    """
    from itda import compare

    _check(out)
    text = common.open_corpus(corpus, models[0], split_on, text_field, encoding_errors)
    with common.plain_warnings():
        opened = [common.open_model(name, device, dtype, attention) for name in models]
        found = compare.model_matrix(
            opened, text, sites=sites, tokens=tokens, atoms=atoms, untrained=untrained, seed=seed
        )
    _keep(out, "models", found.to_dict())
    _show(found, json)


def checkpoints(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(help="The checkpoints, from the first to the last.")],
    corpus: common.CorpusPath = None,
    site: Annotated[str | None, typer.Option(help="Where; the middle layer by default.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--dictionary", help="A dictionary of the last checkpoint; built by default.")
    ] = None,
    atoms: Annotated[int | None, typer.Option(help="Of each dictionary.")] = None,
    steps: common.Steps = None,
    tokens: Annotated[int, typer.Option(help="That dictionaries are built from.")] = 60_000,
    ablated: Annotated[int, typer.Option(help="Atoms that are left out to see what that costs.")] = 64,
    out: Out = None,
    plot: Annotated[Path | None, typer.Option(help="Draw layers, births and atoms, as .svg, .png or .pdf.")] = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    json: common.Json = False,
) -> None:
    """Carry a dictionary through the checkpoints of a training run: when layers settle, when atoms are born.

    Example: `itda compare checkpoints step0 step300 step700 --corpus texts.json`
    """
    from itda import compare
    from itda.data.dictionary import Dictionary
    from itda.view import figures

    if plot is not None:
        figures.check(plot)
    _check(out)
    with common.plain_warnings():
        if len(set(models)) < len(models):
            raise OptionError("A checkpoint is given twice. Name each once, in the order of the run.")
        short = [Path(name).name for name in models]
        names = short if len(set(short)) == len(models) else models
        if folder is not None:
            common.refuse_unused(context, ["atoms", "steps"], "These are of a dictionary that is built.")
        dictionary = None if folder is None else Dictionary.from_pretrained(folder)
        text = common.open_corpus(corpus, models[-1], split_on, text_field, encoding_errors,
                                  chats=dictionary is not None and common.is_of_chats(dictionary))  # fmt: skip
        found = compare.follow(
            dict(zip(names, models, strict=True)), text, site=site, dictionary=dictionary, atoms=atoms, steps=steps,
            tokens=tokens, ablated=ablated, seed=seed,
            load=lambda name: common.open_model(str(name), device, dtype, attention),
        )  # fmt: skip
    if out is not None:
        found.save(out)
    if plot is not None:
        figures.save(figures.run_curves(found), plot)
    _show(found, json)


def diff(
    base: Annotated[str, typer.Argument(help="A model: a folder or a name on the Hugging Face hub.")],
    tuned: Annotated[str, typer.Argument(help="Another of the same tokenizer, such as the first after fine-tuning.")],
    corpus: common.CorpusPath = None,
    site: Annotated[str | None, typer.Option(help="Where; the middle layer by default.")] = None,
    atoms: Annotated[int | None, typer.Option(help="Of each dictionary.")] = None,
    steps: common.Steps = None,
    tokens: Annotated[int, typer.Option(help="Of each model, half to choose on and half to test on.")] = 60_000,
    margin: Annotated[float, typer.Option(help="Use must differ by more than this share of it.")] = 0.5,
    apart: Annotated[
        float, typer.Option(help="And squared distances where it is used must be more than so many usual ones.")
    ] = 2.5,
    rate: Annotated[float, typer.Option(help="Of false discoveries, at most.")] = 0.05,
    out: Out = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    json: common.Json = False,
) -> None:
    """Find the atoms that two models use otherwise, and the texts where they differ most.

    Example: `itda compare diff gpt2 my-fine-tune --corpus texts.json`
    """
    from itda import compare

    _check(out)
    text = common.open_corpus(corpus, base, split_on, text_field, encoding_errors)
    with common.plain_warnings():
        before, after = (common.open_model(name, device, dtype, attention) for name in (base, tuned))
        found = compare.diff(
            before, after, text, site=site, atoms=atoms, steps=steps, tokens=tokens, margin=margin, apart=apart,
            rate=rate, seed=seed,
        )  # fmt: skip
    if out is not None:
        found.save(out)
    _show(found, json)


def _check(out: Path | None) -> None:
    from itda.compare.known import check_place

    if out is not None:
        check_place(out)


def _keep(out: Path | None, kind: str, facts: dict[str, Any]) -> None:
    from itda.compare.known import write_json

    if out is not None:
        write_json(out, kind, facts)


def _show(found: Any, json: bool) -> None:
    if json:
        common.print_json(found.to_dict())
    else:
        common.print_rich(found)
