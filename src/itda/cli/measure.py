"""itda probe, itda read, itda judge, itda ablate, itda stability: what codes and atoms are worth beside fidelity."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itda.cli import common
from itda.errors import OptionError

if TYPE_CHECKING:
    from itda.data.activations import Activations
    from itda.data.dictionary import Dictionary

Tokens = Annotated[int | None, typer.Option(help="Look at about so many held-out tokens; all there are if fewer.")]
Others = Annotated[
    list[Path] | None, typer.Option("--other", help="Another dictionary of the same place; may be given several times.")
]
CountOfAtoms = Annotated[int, typer.Option("--atoms", help="How many atoms are looked at.")]


def probe(
    folder: common.Folder,
    labelled: Annotated[
        Path, typer.Option(help="Texts with labels: .jsonl or .json objects, or a .csv or .tsv table with a header.")
    ],
    text_field: common.TextField = "text",
    label_field: Annotated[str, typer.Option(help="Where labels are kept.")] = "label",
    encoding_errors: common.EncodingErrors = "strict",
    other: Others = None,
    test: Annotated[float, typer.Option(help="Share of the texts that is tested on.")] = 0.3,
    steps: common.Steps = None,
    model: common.OtherModel = None,
    site: common.Place = None,
    seed: common.Seed = 0,
    any_model: common.AnyModel = False,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Test whether labels can be read off one, two, five or all atoms of a text's codes.

    Example: `itda probe runs/l3 --labelled reviews.jsonl`
    """
    from itda import evaluation
    from itda.data.labelled import read_labelled

    texts, labels = read_labelled(
        labelled, text_field=text_field, label_field=label_field, encoding_errors=encoding_errors
    )
    with common.plain_warnings():
        dictionary, loaded = common.open_both(folder, model, device, dtype, attention, tokenizer)
        report = evaluation.probe(
            dictionary, loaded, texts, labels, others=_others(other), test=test, steps=steps, site=site, seed=seed,
            check_model=not any_model,
        )  # fmt: skip
    _show(report, json)


def read(
    folder: common.Folder,
    corpus: common.CorpusPath = None,
    tokens: Tokens = 20_000,
    atoms: CountOfAtoms = 100,
    steps: common.Steps = None,
    model: common.OtherModel = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Measure whether the text around tells where atoms are used, beyond the token itself; needs no service.

    Example: `itda read runs/l2 --corpus stories.json`
    """
    from itda import evaluation

    with common.plain_warnings():
        load = (model, device, dtype, attention, tokenizer)
        dictionary, held_out = _held_out(folder, corpus, tokens, (split_on, text_field, encoding_errors), load, seed)
        report = evaluation.read_atoms(dictionary, held_out, atoms=atoms, steps=steps, seed=seed)
    _show(report, json)


def judge(
    folder: common.Folder,
    url: Annotated[str, typer.Option(help="Base of a service that speaks OpenAI's chat protocol, as http://HOST/v1.")],
    judge_model: Annotated[str, typer.Option(help="Its name for the model that answers.")],
    corpus: common.CorpusPath = None,
    answers: Annotated[
        Path | None, typer.Option(help="File that keeps every answer; by default beside the dictionary.")
    ] = None,
    tokens: Tokens = 20_000,
    atoms: CountOfAtoms = 50,
    retries: Annotated[int, typer.Option(help="How often a question that failed is asked again.")] = 5,
    timeout: Annotated[float, typer.Option(help="Seconds for one answer.")] = 60.0,
    steps: common.Steps = None,
    model: common.OtherModel = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Let a language model tell where atoms are used. Its key is read from the variable ITDA_JUDGE_KEY.

    Example: `itda judge runs/l2 --corpus stories.json --url http://localhost:8000/v1 --judge-model llama`
    """
    from itda import evaluation

    asked = evaluation.Judge(url=url, model=judge_model, retries=retries, timeout=timeout)
    with common.plain_warnings():
        load = (model, device, dtype, attention, tokenizer)
        dictionary, held_out = _held_out(folder, corpus, tokens, (split_on, text_field, encoding_errors), load, seed)
        file = answers or folder.with_name(f"{folder.name}.answers.jsonl")
        report = evaluation.judge_atoms(dictionary, held_out, asked, answers=file, atoms=atoms, steps=steps, seed=seed)
    _show(report, json)


def stability(
    folder: common.Folder,
    corpus: common.CorpusPath = None,
    tokens: Tokens = 20_000,
    other: Others = None,
    steps: common.Steps = None,
    model: common.OtherModel = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Measure how much of a code stays: with noise, one step more or less, another seed or order of documents.

    Example: `itda stability runs/l2 --corpus stories.json --other runs/l2-seed1`
    """
    from itda import evaluation

    with common.plain_warnings():
        load = (model, device, dtype, attention, tokenizer)
        dictionary, held_out = _held_out(folder, corpus, tokens, (split_on, text_field, encoding_errors), load, seed)
        report = evaluation.compare_codes(dictionary, held_out, others=_others(other), steps=steps, seed=seed)
    _show(report, json)


def ablate(
    folder: common.Folder,
    corpus: common.CorpusPath = None,
    atom: Annotated[list[int] | None, typer.Option(help="Which atom; may be given several times.")] = None,
    count: Annotated[
        int, typer.Option(help="How many atoms where none is named, drawn as often as codes use them.")
    ] = 20,
    tokens: Tokens = 10_000,
    steps: common.Steps = None,
    model: common.OtherModel = None,
    site: common.Place = None,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    seed: common.Seed = 0,
    any_model: common.AnyModel = False,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Leave out one atom at a time, wherever codes have it, and see what changes in the predictions.

    Example: `itda ablate runs/l2 --corpus stories.json --atom 17`
    """
    from itda import evaluation

    with common.plain_warnings():
        dictionary, loaded = common.open_both(folder, model, device, dtype, attention, tokenizer)
        texts = common.open_corpus(corpus, loaded.id, split_on, text_field, encoding_errors,
                                   chats=common.is_of_chats(dictionary))  # fmt: skip
        report = evaluation.ablate(
            dictionary, loaded, texts, atoms=atom, count=count, tokens=tokens, steps=steps, site=site, seed=seed,
            check_model=not any_model,
        )  # fmt: skip
    _show(report, json)


def _held_out(
    folder: Path, corpus: Path | None, tokens: int | None, reading: tuple[str | None, str, str], load: Any, seed: int
) -> "tuple[Dictionary, Activations]":
    """The dictionary, and activations of text that it was not built from, captured as its own were."""
    from itda.capturing import capture_like
    from itda.evaluation import held_out_of

    dictionary, model = common.open_both(folder, *load)
    text = common.open_corpus(corpus, model.id, *reading, chats=common.is_of_chats(dictionary))
    texts, _ = held_out_of(dictionary, text)
    return dictionary, capture_like(dictionary, model, texts, tokens=tokens, seed=seed)


def _others(folders: list[Path] | None) -> "dict[str, Dictionary]":
    from itda.data.dictionary import Dictionary

    if len(set(folders or ())) < len(folders or ()):
        raise OptionError("The same --other is given twice.")
    return {str(folder): Dictionary.from_pretrained(str(folder)) for folder in folders or ()}


def _show(report: Any, as_json: bool) -> None:
    if as_json:
        common.print_json(report.to_json())
    else:
        common.print_rich(report)
