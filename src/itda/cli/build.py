"""itda build"""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from itda.cli import common
from itda.errors import OptionError
from itda.models.hook_names import to_site
from itda.options import one_of

_HELD_OUT, _DROP, _BATCH = 0.1, "drop", 32


def build(
    out: common.Out,
    model: common.ModelName = common.EMBEDDED,
    corpus: common.CorpusPath = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="A place such as resid_post.2, the middle layer by default; several make a dictionary each."),
    ] = None,
    atoms: Annotated[
        int | None, typer.Option(help="How many atoms; 8 times the width by default, unless a threshold is given.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="How many tokens to take, spread evenly over the documents; all by default.")
    ] = None,
    steps: common.Steps = None,
    pursuit: Annotated[
        str | None,
        typer.Option(
            help="`omp`, orthogonal matching pursuit, the default; `mp`, the plain one; `gp`, gradient. With --steps."
        ),
    ] = None,
    signed: Annotated[
        bool,
        typer.Option(
            "--signed", help="With --steps: let codes subtract atoms too: less is unexplained, and less can be read."
        ),
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="With --steps: least squares at the end, for --pursuit mp and gp.")
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="With --steps: as many for every row; by default up to twice as many, --steps in the mean."
        ),
    ] = False,
    stop_at: Annotated[
        float | None,
        typer.Option(help="At most --steps for a row, and no more once this share of it or less is unexplained."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="`budget`, activations that serve best together, the default; `greedy`, worst explained first, the "
            "default with a threshold; `mixture`, each of up to five activations; `paper`, the published rule; or a "
            "baseline: `random`, `kmeans`, `token_means`, `learned`, `snmf`."
        ),
    ] = None,
    max_unexplained: Annotated[
        float | None,
        typer.Option(help="Threshold of greedy, instead of a size: the share of a row that may stay unexplained."),
    ] = None,
    max_cosine_gap: Annotated[
        float | None, typer.Option(help="Threshold of paper: 1 - cos(x, x^); the public code's is 2 / width times it.")
    ] = None,
    center: Annotated[
        bool | None, typer.Option("--center/--no-center", help="Take the mean off first; on by default, off for paper.")
    ] = None,
    block: Annotated[int | None, typer.Option(help="Rows that greedy and paper look at together.")] = None,
    pool: Annotated[
        int | None,
        typer.Option(help="Rows kept by the methods that go through them again; by default 32 for each atom."),
    ] = None,
    passes: Annotated[int | None, typer.Option(help="How many times these go through them.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How many times budget exchanges atoms; by default 3.")] = None,
    parts: Annotated[int | None, typer.Option(help="Activations in a mixture, 1 to 5; by default 5.")] = None,
    kept: Annotated[float | None, typer.Option(help="Share of neurons that an atom of snmf keeps.")] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the documents that is left for evaluation; 0 to build from all.")
    ] = _HELD_OUT,
    split_on: common.SplitOn = None,
    text_field: common.TextField = "text",
    encoding_errors: common.EncodingErrors = "strict",
    memory: common.Memory = None,
    seed: common.Seed = 0,
    window: common.WindowTokens = None,
    bos: common.Begin = None,
    role: common.Roles = None,
    special_tokens: common.SpecialTokens = _DROP,
    sinks: common.Sinks = _DROP,
    batch_size: Annotated[int, typer.Option(help="Windows in one forward pass, with --no-canonical.")] = _BATCH,
    canonical: Annotated[
        bool,
        typer.Option(
            "--canonical/--no-canonical",
            help="Forward passes of one fixed shape, so that the same text gives the same bits.",
        ),
    ] = True,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    store: Annotated[
        Path | None, typer.Option(help="Build from the activations in this store instead of from a model and text.")
    ] = None,
    entry: Annotated[str | None, typer.Option(help="Which capture of the store, by the beginning of its name.")] = None,
    every: common.Every = 60.0,
    shards: common.Shards = None,
    workers: common.Workers = None,
    address: common.Address = None,
    worker_cpus: common.WorkerCpus = 1,
    worker_gpus: common.WorkerGpus = 0,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, not from a checkpoint.")] = False,
    overwrite: common.Overwrite = False,
    json: common.Json = False,
) -> None:
    """Build a dictionary of real activations.

    After whatever stopped it, the same command goes on: until it is done, OUT.checkpoint holds what it needs.

    Example: `itda build ./model --corpus stories.json --site resid_post.2 --atoms 1024 --out runs/l2`
    """
    from itda import scale
    from itda.building import build_from_activations, build_many
    from itda.data import checkpoints
    from itda.data.files import check_free
    from itda.data.store import Store
    from itda.pursuit import default_coding
    from itda.pursuit.codes import Coding, Method

    beside = out if out.name else out.resolve()
    if not beside.name:
        raise OptionError(f"--out names a folder to write. Got {str(out)!r}.")
    checkpoint = beside.with_name(f"{beside.name}.checkpoint")
    if restart:
        checkpoints.remove(checkpoint)
    targets = {name: out / name if site and len(site) > 1 else out for name in site or [""]}
    folders = {to_site(name): target for name, target in targets.items()}
    going_on = checkpoints.is_begun(
        checkpoint
    )  # a stop between saving and clearing away left the same dictionary there
    for target in targets.values():
        check_free(target, "dictionary", overwrite=overwrite or going_on)
    asked: dict[str, Any] = {
        "atoms": atoms, "steps": steps, "method": method, "max_unexplained": max_unexplained,
        "max_cosine_gap": max_cosine_gap, "center": center, "block": block, "memory": memory, "pool": pool,
        "passes": passes, "rounds": rounds, "parts": parts, "kept": kept, "seed": seed,
    }  # fmt: skip
    if pursuit or signed or refit or exact or stop_at is not None:
        if pursuit:
            one_of("--pursuit", pursuit, get_args(Method))
        if steps is None:
            raise OptionError(
                "--pursuit, --signed, --refit, --exact and --stop-at say how codes are made, and how many atoms these "
                "have is a part of that. Give --steps too: by default it is a sixteenth of the width, from 4 to 40."
            )
        own = Coding(steps=steps) if method == "paper" else default_coding(steps)
        coding = own.with_options(method=pursuit, refit=refit or None)
        if refit and coding.method == "omp":
            raise OptionError(
                "Orthogonal pursuit fits by least squares at every step. --refit is for --pursuit mp or gp."
            )
        if exact and stop_at is not None:
            raise OptionError("--exact gives every row --steps atoms, --stop-at fewer where that is enough. Give one.")
        if exact or max_unexplained is not None or stop_at is not None:
            coding = replace(coding, most=None, stop_at=stop_at)
        asked |= {"steps": None, "coding": replace(coding, nonnegative=coding.nonnegative and not signed)}
    if entry is not None and store is None:
        raise OptionError("--entry is of a store. Give --store too.")
    spread = common.scale_options(shards, workers, address, worker_cpus, worker_gpus)
    with common.plain_warnings():
        if store is not None:
            if corpus is not None or tokens is not None or (site and len(site) > 1):
                raise OptionError(
                    "--store has activations of its own text. Leave out --corpus and --tokens, and name one --site."
                )
            given = {
                "--window": window is not None, "--bos": bos is not None, "--role": bool(role),
                "--device": device is not None, "--dtype": dtype is not None, "--tokenizer": tokenizer is not None,
                "--attention": attention is not None, "--split-on": split_on is not None,
                "--held-out": held_out != _HELD_OUT, "--special-tokens": special_tokens != _DROP,
                "--sinks": sinks != _DROP, "--batch-size": batch_size != _BATCH, "--no-canonical": not canonical,
            }  # fmt: skip
            unused = [name for name, asked_for in given.items() if asked_for]
            if unused:
                raise OptionError(f"--store has activations that were taken already. Leave out {', '.join(unused)}.")
            if shards is not None:
                raise OptionError("--store has as many shards as it was captured with. Leave out --shards.")
            stored = Store(store).open(next(iter(site or []), None), entry=entry)
            origin = f"store: {store}, {stored.name}"
            if spread is None:
                found = build_from_activations(stored, checkpoint=checkpoint, every=every, **asked)
            else:
                found = scale.build_stored(stored, folder=checkpoint, every=every, **asked, **spread)
            built = {stored.site: found}
        else:
            texts = common.open_corpus(corpus, model, split_on, text_field, encoding_errors, chats=bool(role))
            summary = texts.summary
            if held_out:
                texts, _ = texts.split(held_out=held_out, seed=seed)
            origin = f"text: {summary}; {summary.documents - len(texts):,} documents held out"
            asked |= {
                "tokens": tokens, "window": window, "bos": bos, "roles": role or None,
                "special_tokens": special_tokens, "sinks": sinks, "batch_size": batch_size,
                "canonical": canonical, "every": every,
            }  # fmt: skip
            if spread is None:
                loaded = common.open_model(model, device, dtype, attention, tokenizer)
                built = build_many(loaded, texts, sites=site or [loaded.middle_site], checkpoint=checkpoint, **asked)
            else:
                load = common.load_options(device, dtype, attention, tokenizer)
                built = scale.build_many(model, texts, sites=site, folder=checkpoint, load=load, **asked, **spread)
    said: list[dict[str, Any]] = []
    for name, dictionary in built.items():
        folder = folders.get(name, out)
        dictionary.save_pretrained(folder, overwrite=overwrite or going_on)
        said.append({"folder": str(folder), **dictionary.facts()})
        if not json:
            taken = dictionary.facts()["provenance"]["capture"]
            left_out = common.left_out(taken["counts"], taken["special_tokens"], taken["sinks"])
            print(f"{folder}: {dictionary}")
            print(f"  {origin}")
            print(f"  {dictionary.build.rows:,} rows; left out {left_out}")
            print(f"  {dictionary.build.unexplained:.1%} unexplained on those rows{common.novelty(dictionary.build)}")
            for note in dictionary.build.notes:
                print(f"  note: {note}")
    checkpoints.remove(checkpoint)
    if json:
        common.print_json(said[0] if len(said) == 1 else said)
    else:
        text = "OTHER-TEXT" if store or not held_out else common.as_typed(corpus, split_on, text_field, encoding_errors)
        print(f"Next: itda evaluate {shlex.quote(str(next(iter(targets.values()))))} --corpus {text}")
