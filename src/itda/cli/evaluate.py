"""itda evaluate"""

from pathlib import Path
from typing import Annotated, Any

import typer

from itda.cli import common
from itda.errors import OptionError


def evaluate(
    context: typer.Context,
    folder: common.Folder,
    corpus: common.CorpusPath = None,
    model: common.OtherModel = None,
    site: common.Place = None,
    tokens: Annotated[int | None, typer.Option(help="Look at about so many tokens in whole windows.")] = 20_000,
    steps: common.Steps = None,
    memory: common.Memory = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Measure the mean, the token mean and random atoms too.")
    ] = True,
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
    store: Annotated[
        Path | None,
        typer.Option(help="Measure on activations in this store: all but the losses; no model is run."),
    ] = None,
    entry: Annotated[str | None, typer.Option(help="Which capture of the store, by the beginning of its name.")] = None,
    json: common.Json = False,
) -> None:
    """Measure a dictionary on documents it was not built from; the others are left out.

    Example: `itda evaluate runs/l2 --corpus stories.json`
    """
    from itda import scale
    from itda.data import checkpoints
    from itda.data.dictionary import Dictionary
    from itda.data.store import Store
    from itda.evaluation import evaluate as evaluate_on
    from itda.evaluation import evaluate_activations

    spread = common.scale_options(shards, workers, address, worker_cpus, worker_gpus)
    asked: dict[str, Any] = {
        "tokens": tokens, "steps": steps, "baselines": baselines, "seed": seed, "site": site,
        "check_model": not any_model, "memory": memory,
    }  # fmt: skip
    if store is None:
        common.refuse_unused(context, ["entry"], "Entries are those of --store.")
    with common.plain_warnings():
        if store is not None:
            if corpus is not None or spread is not None:
                raise OptionError(
                    "--store holds activations of its own text, and no model is run. Leave out --corpus, --shards, "
                    "--workers and --address."
                )
            unused = (
                "model", "device", "dtype", "attention", "tokenizer", "any_model", "tokens", "baselines", "split_on",
                "text_field", "encoding_errors",
            )  # fmt: skip
            common.refuse_unused(context, unused, "With --store no model is run, and all of its rows are measured.")
            dictionary = Dictionary.from_pretrained(str(folder))
            stored = Store(store).open(site or (dictionary.site if dictionary.provenance else None), entry=entry)
            report = evaluate_activations(dictionary, stored, steps=steps, seed=seed, memory=memory)
        elif spread is None:
            dictionary, loaded = common.open_both(folder, model, device, dtype, attention, tokenizer)
            texts = common.open_corpus(corpus, loaded.id, split_on, text_field, encoding_errors,
                                       chats=common.is_of_chats(dictionary))  # fmt: skip
            report = evaluate_on(dictionary, loaded, texts, **asked)
        else:
            dictionary = Dictionary.from_pretrained(str(folder))
            name, load = model or dictionary.model_id, common.load_options(device, dtype, attention, tokenizer)
            texts = common.open_corpus(corpus, name, split_on, text_field, encoding_errors,
                                       chats=common.is_of_chats(dictionary))  # fmt: skip
            parts = folder.with_name(f"{folder.name}.evaluation") if folder.is_dir() else None
            report = scale.evaluate(dictionary, name, texts, folder=parts, load=load, **asked, **spread)
            if parts is not None:
                checkpoints.remove(parts)
    if json:
        common.print_json(report.to_json())
    else:
        common.print_rich(report)
