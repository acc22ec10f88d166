"""Arguments that several verbs share, and how results are printed."""

import json
import os
import shlex
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs

import typer

from itda.errors import OptionError

if TYPE_CHECKING:
    from itda.data.build_records import BuildRecord
    from itda.data.corpus import Corpus
    from itda.data.dictionary import Dictionary
    from itda.models.loading import Model

EMBEDDED = "embedded"
_DATASETS = "hf:/datasets"
"""How a path begins that was written as hf://datasets/...: paths have one slash where text has two."""
REMOTE = "ndif"

ModelName = Annotated[
    str, typer.Argument(help="A folder, a name on the Hugging Face hub, or `embedded`.", show_default=True)
]
Folder = Annotated[Path, typer.Argument(help="Folder of a dictionary, or its name on the Hugging Face hub.")]
OtherModel = Annotated[
    str | None, typer.Option("--model", help="The model; by default the one recorded in the dictionary.")
]
Place = Annotated[str | None, typer.Option("--site", help="Where, for a dictionary that was built from a bare array.")]
AnyModel = Annotated[
    bool, typer.Option("--any-model", help="Go on although the model is not the one the dictionary was built on.")
]
CorpusPath = Annotated[
    Path | None,
    typer.Option(
        "--corpus",
        help="Text: a .txt, .json, .jsonl or .parquet file or a folder of them; a dataset of the hub as "
        "`hf://datasets/USER/NAME?split=train&limit=10000`; the embedded text for the embedded model.",
    ),
]
SplitOn = Annotated[
    str | None, typer.Option(help="Cut each text file into documents at this string; \\n is a line end.")
]
TextField = Annotated[
    str, typer.Option(help="Where JSON objects or tables keep their text, or token ids of the model's tokenizer.")
]
EncodingErrors = Annotated[str, typer.Option(help="`strict`, or `replace` for files that are not all UTF-8.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:1; auto to spread the model over all GPUs; disk to run a model larger than memory layer "
        "by layer; ndif to run it on other machines through nnsight. By default the accelerator if there is one."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Data type of the weights: float32, bfloat16, ..., 8bit, 4bit; by default float32 on the CPU, else (and "
        "with --device disk) the model's own."
    ),
]
Attention = Annotated[str | None, typer.Option(help="transformers' attention implementation: eager, sdpa, ...")]
Tokenizer = Annotated[str | None, typer.Option(help="Folder or name of the tokenizer, if the model has none.")]
Steps = Annotated[
    int | None,
    typer.Option(help="Pursuit steps K, the atoms of a code; as a default of `build` those it has in the mean."),
]
Memory = Annotated[
    str | None,
    typer.Option(help="What inner products of the atoms may take, as 2GiB; half of what is free by default."),
]
WindowTokens = Annotated[int | None, typer.Option(help="Tokens the model reads at once; at most 128 by default.")]
Begin = Annotated[
    bool | None,
    typer.Option("--bos/--no-bos", help="Begin every window with the begin token; by default as the tokenizer does."),
]
SpecialTokens = Annotated[str, typer.Option(help="`drop` or `keep` tokens that stand for no text.")]
Sinks = Annotated[str, typer.Option(help="`drop` or `keep` tokens whose norm is far above the median.")]
Roles = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        help="The text is conversations, objects with `messages`, as the model's chat template writes them: take "
        "tokens of this role only (assistant, user, system). May be given several times.",
    ),
]
Every = Annotated[float, typer.Option(help="Seconds between two checkpoints.")]
Seed = Annotated[int, typer.Option(help="Which documents and tokens are taken.")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if itda wrote it before.")]
Shards = Annotated[
    int | None,
    typer.Option(help="Cut the text into so many parts, for many workers (8); decides the result, as workers do not."),
]
Workers = Annotated[
    int | None, typer.Option(help="Parts that are worked on at once, through Ray; by default what processors allow.")
]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray cluster, as HEAD:6379 or auto, that sees the same folders; else workers on this machine."),
]
WorkerCpus = Annotated[int, typer.Option(help="Processors of each worker.")]
WorkerGpus = Annotated[float, typer.Option(help="GPUs of each worker.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def open_corpus(
    path: Path | None,
    model_name: str,
    split_on: str | None,
    text_field: str,
    encoding_errors: str,
    *,
    chats: bool = False,
) -> "Corpus":
    """The corpus at a path, or the embedded one for the embedded model.

    Args:
        path, split_on, text_field, encoding_errors: as they were given.
        model_name: whose tokenizer reads token ids and writes conversations.
        chats: whether it is conversations.
    Raises: OptionError without a path for another model.
    """
    from itda.data.corpus import Corpus

    if path is None or str(path) == EMBEDDED:
        if path is None and model_name != EMBEDDED:
            raise OptionError(
                "Which text should be read? Give --corpus PATH (.txt, .json, .jsonl or a folder), or --corpus embedded."
            )
        return Corpus.embedded()
    if chats:
        field = "messages" if text_field == "text" else text_field
        return Corpus.from_chats(path, _tokenizer_of(model_name), messages_field=field)
    how: dict[str, Any] = {"text_field": text_field, "tokenizer": lambda: _tokenizer_of(model_name)}
    if (dataset := str(path)).startswith(_DATASETS):
        return Corpus.from_dataset(**_dataset(dataset), **how)
    separator = split_on.replace("\\n", "\n").replace("\\t", "\t") if split_on else split_on
    return Corpus.from_files(path, split_on=separator, encoding_errors=encoding_errors, **how)


def as_typed(path: Path | None, split_on: str | None, text_field: str, encoding_errors: str) -> str:
    """A corpus on the command line, with the options that decide what its documents are."""
    words = [str(path or EMBEDDED)]
    words += ["--split-on", split_on] if split_on else []
    words += ["--text-field", text_field] if text_field != "text" else []
    words += ["--encoding-errors", encoding_errors] if encoding_errors != "strict" else []
    return shlex.join(words)


def _dataset(address: str) -> dict[str, Any]:
    """What `hf://datasets/USER/NAME?split=...&config=...&limit=...` names."""
    name, _, query = address.removeprefix(_DATASETS).removeprefix("/").partition("?")
    given: dict[str, Any] = {name: values[-1] for name, values in parse_qs(query).items()}
    unknown = sorted(set(given) - {"split", "config", "limit"})
    if unknown or not name:
        what = f"Got {unknown[0]!r}" if unknown else "Got no name"
        raise OptionError(f"A dataset is given as hf://datasets/USER/NAME?split=train&config=..&limit=..  {what}.")
    if "limit" in given:
        if not given["limit"].isdecimal():
            raise OptionError(f"limit must be a number of documents. Got {given['limit']!r}.")
        given["limit"] = int(given["limit"])
    return {"dataset": name, **given}


def is_of_chats(dictionary: "Dictionary") -> bool:
    """Whether a dictionary was built from some roles of conversations, so that text for it is conversations too."""
    return bool(dictionary.provenance and dictionary.provenance.capture.get("roles"))


def _tokenizer_of(model_name: str) -> Any:
    import transformers

    from itda.models.loading import load_tokenizer, locate

    return load_tokenizer(locate(model_name)[0], transformers, {})


def refuse_unused(context: typer.Context, names: Sequence[str], because: str) -> None:
    """Refuse options that were given and would change nothing.

    Args:
        context: of the verb.
        names: its parameters.
        because: what else was asked for.
    Raises: OptionError.
    """
    options = {option.name: [*option.opts, *option.secondary_opts] for option in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in names}
    given = ["/".join(options[name]) for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    if given:
        raise OptionError(f"{because} Leave out {', '.join(given)}.")


def open_model(
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    attention: str | None = None,
    tokenizer: str | None = None,
) -> "Model":
    """The model of that name.

    Raises: ModelError, MissingExtraError; OptionError for what cannot be decided from here.
    """
    from itda.models.loading import load_model

    if device == REMOTE:
        from itda.adapters import nnsight

        if dtype or attention:
            raise OptionError("A model on other machines runs as they run it. Leave out --dtype and --attention.")
        return nnsight.load(name, tokenizer=tokenizer)
    return load_model(name, device=device, dtype=dtype, attention=attention, tokenizer=tokenizer)


def scale_options(
    shards: int | None, workers: int | None, address: str | None, cpus: int, gpus: float
) -> dict[str, Any] | None:
    """How work is spread over workers; None if nobody asked for that."""
    if shards is None and workers is None and address is None:
        if cpus != 1 or gpus:
            raise OptionError("--worker-cpus and --worker-gpus are for workers. Give --shards or --workers too.")
        return None
    given = {"shards": shards, "workers": workers, "address": address, "cpus": cpus, "gpus": gpus}
    return {name: value for name, value in given.items() if value is not None}


def load_options(device: str | None, dtype: str | None, attention: str | None, tokenizer: str | None) -> dict[str, Any]:
    """How workers load a model.

    Raises: OptionError for a model on other machines, which needs no workers here.
    """
    if device == REMOTE:
        raise OptionError(
            f"A model on other machines needs no workers here. Leave out --shards and --workers, or --device {REMOTE}."
        )
    given = {"device": device, "dtype": dtype, "attention": attention, "tokenizer": tokenizer}
    return {name: value for name, value in given.items() if value is not None}


def open_both(
    folder: Path, model: str | None, device: str | None = None, dtype: str | None = None, attention: str | None = None,
    tokenizer: str | None = None,
) -> "tuple[Dictionary, Model]":  # fmt: skip
    """A dictionary and the model it names, or another.

    Raises: FormatError, ModelError, OptionError.
    """
    from itda.data.dictionary import Dictionary

    dictionary = Dictionary.from_pretrained(str(folder))
    return dictionary, open_model(model or dictionary.model_id, device, dtype, attention, tokenizer)


def open_log(named: str) -> Any:
    """A log as `--log` names it.

    Raises: OptionError, MissingExtraError, OutputError.
    """
    kind, _, where = named.partition(":")
    if kind not in ("tensorboard", "wandb") or not where:
        raise OptionError(f"A log is named tensorboard:FOLDER or wandb:PROJECT. Got {named!r}.")
    if kind == "tensorboard":
        from itda.adapters import tensorboard

        return tensorboard.Log(where)
    from itda.adapters import wandb

    return wandb.Log(where, mode=os.environ.get("WANDB_MODE", "offline"))


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_rich(*things: Any) -> None:
    """Tables and text on stdout, as wide as the terminal; 120 columns into a file or pipe."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    for thing in things:
        console.print(thing, markup=False) if isinstance(thing, str) else console.print(thing)


def size(count: int) -> str:
    """Bytes as a person reads them."""
    units = ("B", "kB", "MB", "GB", "TB")
    place = min(len(units) - 1, max(0, (len(str(count)) - 1) // 3))
    return f"{count / 1000**place:.{0 if place == 0 else 1}f} {units[place]}"


def left_out(counts: dict[str, int], special_tokens: str, sinks: str) -> str:
    """What a capture left out, by reason."""
    dropped = {"special": special_tokens, "sinks": sinks}
    return ", ".join(f"{counts[name]:,} {name}" if what == "drop" else f"no {name}" for name, what in dropped.items())


def novelty(build: "BuildRecord") -> str:
    """How novel its atoms were, for methods that know it."""
    return "" if build.threshold is None else f"; smallest novelty {build.threshold:.3f}"


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line on stderr, once each, without the line of code they came from."""
    said: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in said:  # layers of a quantized model each have their own
            typer.echo(f"itda: {message}", err=True)
        said.add(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
