"""itda steer fit | apply | sweep | explain | export"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itda.cli import common
from itda.errors import OptionError

if TYPE_CHECKING:
    from itda.models.loading import Model
    from itda.steer import SteeringVector

VectorFile = Annotated[Path, typer.Argument(help="A steering vector that `itda steer fit` wrote.")]
TheModel = Annotated[str | None, typer.Option("--model", help="The model; by default the one recorded in the vector.")]
Sites = Annotated[
    list[str] | None, typer.Option("--site", help="Where; may be given several times. The middle layer by default.")
]
Operator = Annotated[str, typer.Option("--op", help="add, add_norm, rotate or ablate.")]
Tokens = Annotated[
    str,
    typer.Option(help="all, prompt, generation, last; a place as 3 or -1, several as 0,2, or a range as 5: or 2:9."),
]
_STRENGTH = "1 adds as much as activations there are usually long, times the vector's own length."
_DEFAULT_STRENGTH = 0.3
Strength = Annotated[float, typer.Option(help=_STRENGTH)]


def fit(
    model: Annotated[str | None, typer.Argument(help="A folder, a name on the hub, or `embedded`.")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Pairs: .jsonl or .json objects, or a .csv table, with `positive` and `negative`."),
    ] = None,
    positive: Annotated[
        Path | None, typer.Option(help="In place of pairs: a .json list of texts, or a .txt file, a text a line.")
    ] = None,
    negative: Annotated[Path | None, typer.Option(help="The same for the other side.")] = None,
    contrasts: Annotated[
        Path | None,
        typer.Option(help="For --method attribution: objects with `prompt`, `target` and `opposite`."),
    ] = None,
    dictionary: Annotated[
        Path | None, typer.Option(help="Instead of texts: a dictionary, whose atoms are the vector.")
    ] = None,
    atom: Annotated[
        list[str] | None,
        typer.Option(help="An atom of it, as 17, or with a weight, as 17:-0.5; may be given several times."),
    ] = None,
    sites: Sites = None,
    method: Annotated[str, typer.Option(help="mean, pca, pca_centred, logistic or attribution.")] = "mean",
    read: Annotated[
        str, typer.Option(help="The row of a text: last, mean, tokens (all of them, for mean), or a place.")
    ] = "last",
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")] = Path("vector.safetensors"),
    encoding_errors: common.EncodingErrors = "strict",
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Fit a steering vector to pairs of texts, or make one of a dictionary's atoms.

    Example: `itda steer fit gpt2 --pairs pairs.jsonl --site resid_post.6 --out calm.safetensors`

    Example: `itda steer fit --dictionary runs/l2 --atom 17 --out atom.safetensors`
    """
    from itda import steer
    from itda.data.dictionary import Dictionary
    from itda.data.labelled import read_list, read_together
    from itda.steer import storing, vector_files

    storing.check_place(out, vector_files.KIND)
    if dictionary is not None:
        if pairs or positive or negative or contrasts or model or sites or method != "mean" or read != "last":
            raise OptionError("A vector of atoms needs no model, texts or places. Give --dictionary and --atom alone.")
        vector = steer.SteeringVector.from_atoms(Dictionary.from_pretrained(str(dictionary)), _weights(atom))
    else:
        _check_texts(method, pairs, positive, negative, contrasts, read, atom)
        if model is None:
            raise OptionError("Which model? Name it first, as in itda steer fit gpt2 --pairs pairs.jsonl.")
        opened = common.open_model(model, device, dtype, attention, tokenizer)
        if method == "attribution":
            if contrasts is None:
                raise OptionError("An attribution vector is fitted to --contrasts: prompt, target and opposite.")
            given = read_together(contrasts, ("prompt", "target", "opposite"), encoding_errors=encoding_errors)
            vector = steer.attribution.fit(opened, [steer.Contrast(*one) for one in given], sites)
        else:
            texts: Any
            if pairs is not None:
                texts = read_together(pairs, ("positive", "negative"), encoding_errors=encoding_errors)
            elif positive is not None and negative is not None:
                texts = tuple(read_list(side, encoding_errors=encoding_errors) for side in (positive, negative))
            else:
                raise OptionError("Fitted to what? Give --pairs FILE, or --positive FILE and --negative FILE.")
            vector = steer.SteeringVector.fit(opened, texts, sites, method=method, read=_place(read))  # type: ignore[arg-type]
    vector.save(out)
    facts = {"file": str(out), "sites": list(vector.sites), "norms": dict(vector.norms), "facts": dict(vector.facts)}
    if json:
        common.print_json(facts)
        return
    norms = ", ".join(f"{name} (median norm {norm:.3g})" for name, norm in vector.norms.items())
    common.print_rich(f"{out}: a vector at {norms}")
    print(f"Next: itda steer apply {shlex.quote(str(out))} --prompt TEXT")


def _check_texts(
    method: str, pairs: Path | None, positive: Path | None, negative: Path | None, contrasts: Path | None, read: str,
    atom: list[str] | None,
) -> None:  # fmt: skip
    """Refuse what would be given for nothing."""
    of_sides, attributed = bool(positive or negative), method == "attribution"
    unused = {
        "--atom": bool(atom),
        "--contrasts": bool(contrasts) and not attributed,
        "--pairs": bool(pairs) and (attributed or of_sides),
        "--positive": of_sides and attributed,
        "--read": attributed and read != "last",
    }
    if names := [name for name, is_unused in unused.items() if is_unused]:
        raise OptionError(
            f"{names[0]} is not for this. A vector is of --pairs, of --positive and --negative, of --contrasts with "
            "--method attribution, or of --dictionary with --atom: give one of these."
        )


def apply(
    vector: VectorFile,
    prompt: Annotated[list[str], typer.Option(help="Text to go on with; may be given several times.")],
    strength: Annotated[float | None, typer.Option(help=f"{_STRENGTH} By default {_DEFAULT_STRENGTH}.")] = None,
    op: Operator = "add",
    tokens: Tokens = "all",
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 40,
    kl: Annotated[
        float | None,
        typer.Option(help="In place of --strength: find the one that changes neutral predictions by so many nats."),
    ] = None,
    neutral: Annotated[
        Path | None, typer.Option(help="Neutral text for --kl: .txt, .json, .jsonl; the embedded text by default.")
    ] = None,
    model: TheModel = None,
    any_model: common.AnyModel = False,
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Let the model go on with prompts, as it is and steered.

    Example: `itda steer apply calm.safetensors --prompt "I have to say that" --strength 0.3`
    """
    from itda import steer

    if kl is not None and strength is not None:
        raise OptionError("--kl finds the strength. Give --kl or --strength.")
    if kl is None and neutral is not None:
        raise OptionError("--neutral is text for --kl. Give that too, or leave --neutral out.")
    strength = _DEFAULT_STRENGTH if strength is None else strength
    given, opened = _open(vector, model, device, dtype, attention, tokenizer)
    where = _tokens(tokens)
    with common.plain_warnings():
        found = (
            None
            if kl is None
            else steer.calibrate(opened, given, _neutral(neutral), kl, op=op, tokens=where, check_model=not any_model)
        )
        amount = strength if found is None else found.strength
        plain = steer.generate(opened, prompt, max_new_tokens=max_new_tokens)
        with given.apply(opened, amount, op=op, tokens=where, check_model=not any_model) as told:
            steered = steer.generate(opened, prompt, max_new_tokens=max_new_tokens)
    if json:
        answers = [
            {"prompt": one.prompt, "plain": one.text, "steered": other.text}
            for one, other in zip(plain, steered, strict=True)
        ]
        facts = {"steered_by": str(told), "strength": amount, "kl": found.kl if found else None, "answers": answers}
        common.print_json(facts)
        return
    common.print_rich(str(told))
    if found is not None:
        common.print_rich(str(found))
    for one, other in zip(plain, steered, strict=True):
        common.print_rich(f"\nprompt   {one.prompt}", f"plain    {one.text}", f"steered  {other.text}")


def sweep(
    vector: VectorFile,
    contrasts: Annotated[
        Path, typer.Option(help="Held-out objects with `prompt`, `target` and `opposite`: what steering is to do.")
    ],
    neutral: Annotated[
        Path | None, typer.Option(help="Text that has nothing to do with it; the embedded text by default.")
    ] = None,
    strength: Annotated[
        list[float] | None, typer.Option(help="May be given several times; 0.1 to 1.6 in doublings by default.")
    ] = None,
    op: Operator = "add",
    tokens: Tokens = "all",
    most_perplexity: Annotated[
        float, typer.Option(help="What a recommendation may cost on neutral text, as a factor.")
    ] = 1.25,
    plot: Annotated[Path | None, typer.Option(help="Draw effect and cost as .svg, .png or .pdf.")] = None,
    model: TheModel = None,
    encoding_errors: common.EncodingErrors = "strict",
    device: common.Device = None,
    dtype: common.Dtype = None,
    attention: common.Attention = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """Which layer, what strength? Steer at each site of a vector by itself, at each strength, and recommend one.

    Example: `itda steer sweep calm.safetensors --contrasts held_out.jsonl --neutral stories.json`
    """
    from itda import steer
    from itda.data.labelled import read_together
    from itda.view import figures

    if plot is not None:
        figures.check(plot)
    given = read_together(contrasts, ("prompt", "target", "opposite"), encoding_errors=encoding_errors)
    own, opened = _open(vector, model, device, dtype, attention, tokenizer)
    strengths = strength or steer.sweeping.STRENGTHS
    with common.plain_warnings():
        found = steer.sweep(
            opened, own, [steer.Contrast(*one) for one in given], _neutral(neutral), strengths=strengths, op=op,
            tokens=_tokens(tokens), most_perplexity=most_perplexity,
        )  # fmt: skip
    if plot is not None:
        figures.save(figures.sweep(found), plot)
    common.print_json(found.to_json()) if json else common.print_rich(found)


def explain(
    vector: VectorFile,
    dictionary: common.Folder,
    count: Annotated[int, typer.Option(help="At most so many atoms.")] = 8,
    json: common.Json = False,
) -> None:
    """Say which atoms of a dictionary a vector is made of, with their texts.

    Example: `itda steer explain calm.safetensors runs/l2`
    """
    from itda import steer
    from itda.data.dictionary import Dictionary

    opened = Dictionary.from_pretrained(str(dictionary))
    found = steer.SteeringVector.load(vector).explain(opened, count=count)
    common.print_json(found.to_json()) if json else common.print_rich(found)


def export(
    vector: VectorFile,
    out: Annotated[Path, typer.Option(help="The .gguf file to write.")],
    strength: Strength = 1.0,
    json: common.Json = False,
) -> None:
    """Write a vector as a GGUF control vector, which llama.cpp and repeng read: scale 1 there is this strength here.

    Example: `itda steer export calm.safetensors --out calm.gguf --strength 0.3`
    """
    from itda import steer

    given = steer.SteeringVector.load(vector)
    given.to_gguf(out, strength=strength)
    facts = {"file": str(out), "sites": list(given.sites), "strength": strength}
    common.print_json(facts) if json else common.print_rich(f"{out}: a control vector for {', '.join(given.sites)}")


def _open(
    vector: Path, model: str | None, device: str | None, dtype: str | None, attention: str | None, tokenizer: str | None
) -> "tuple[SteeringVector, Model]":
    from itda import steer

    given = steer.SteeringVector.load(vector)
    name = model or (given.model.id if given.model else None)
    if name is None:
        raise OptionError(f"{vector} does not say which model it belongs to. Give --model.")
    return given, common.open_model(name, device, dtype, attention, tokenizer)


def _neutral(path: Path | None) -> list[str]:
    from itda.data.corpus import Corpus

    some = Corpus.from_files(path) if path is not None else Corpus.embedded()
    return [document.text for document, _ in zip(some, range(32), strict=False)]


def _weights(atoms: list[str] | None) -> dict[int, float]:
    """From 17 or 17:-0.5."""
    if not atoms:
        raise OptionError("Which atom? Give --atom NUMBER, or --atom NUMBER:WEIGHT.")
    found: dict[int, float] = {}
    for one in atoms:
        number, _, weight = one.partition(":")
        try:
            found[int(number)] = found.get(int(number), 0.0) + (float(weight) if weight else 1.0)
        except ValueError as error:
            raise OptionError(f"An atom is a number, or a number and a weight, as 17:-0.5. Got {one!r}.") from error
    return found


def _place(read: str) -> str | int:
    try:
        return int(read)
    except ValueError:
        return read


def _tokens(tokens: str) -> Any:
    """A name, a place, several, or a range."""
    try:
        if ":" in tokens:
            start, stop = (int(end) if end.strip() else None for end in tokens.split(":"))
            return slice(start, stop)
        if tokens.lstrip("-")[:1].isdecimal():
            places = [int(place) for place in tokens.split(",")]
            return places[0] if len(places) == 1 else places
    except ValueError as error:
        raise OptionError(f"--tokens is a name, a place, several as 0,2, or a range as 2:9. Got {tokens!r}.") from error
    return tokens
