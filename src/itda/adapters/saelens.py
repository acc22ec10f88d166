"""SAELens, both ways: our dictionaries as autoencoders of its kind, and its autoencoders as dictionaries.

    from itda.adapters import saelens

    saelens.export(dictionary, "folder")                 # cfg.json and sae_weights.safetensors, as SAELens has them
    saelens.register()                                   # then sae_lens.SAE.load_from_disk("folder") knows them
    sae = saelens.as_sae(dictionary)                     # the same without a folder
    dictionary = saelens.read("folder")                  # ours come back whole, others as directions

`read` and `export` do without SAELens; the others need it (the extra `peers`).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from itda.adapters.directions import dictionary_of
from itda.adapters.foreign_files import json_object, missing, number, tensors
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.data.drafts import replaced_folder
from itda.data.files import check_free, to_plain
from itda.errors import FormatError, MissingExtraError, OptionError, OutputError
from itda.models.hook_names import to_hook, to_site
from itda.models.loading import Model
from itda.models.sites import norms_follow
from itda.pursuit import Coding

CONFIG, WEIGHTS, OURS = "cfg.json", "sae_weights.safetensors", "itda"
ARCHITECTURE = "itda"
_LAYOUT = "6.0.0"
"""The version of SAELens whose configurations these are; one without is taken for older."""
_DECODERS = (
    "standard", "gated", "jumprelu", "topk", "batchtopk", "abstopk", "matryoshka_batchtopk", "matching_pursuit",
)  # fmt: skip
"""Architectures whose decoder's rows are directions in the space that is read."""
_SCALED = ("expected_average_only_in", "constant_norm_rescale")


def register() -> None:
    """Make `itda` known to SAELens, so that its loaders open folders that `export` wrote; more than once does no harm.

    Raises: MissingExtraError.
    """
    _classes()


def as_sae(dictionary: Dictionary, *, model: Model | None = None) -> Any:
    """A dictionary as an SAE of SAELens: same codes, as dense float32 (..., A), and same reconstructions.

    Args:
        dictionary: of any kind.
        model: see `export`.
    Raises: MissingExtraError; OptionError for what is no dictionary.
    """
    import torch

    sae_class, config_class = _classes()
    sae = sae_class(config_class.from_dict(_config(checked_dictionary(dictionary), model)))
    with torch.no_grad():
        sae.W_dec.copy_(dictionary.atoms)
        sae.b_dec.copy_(dictionary.mean)
    return sae.eval()


def export(dictionary: Dictionary, folder: str | Path, *, model: Model | None = None, overwrite: bool = False) -> Path:
    """Write a dictionary as SAELens keeps an autoencoder, whole or not at all.

    The folder `itda` in it is the dictionary as `save_pretrained` writes it, so that sources come back too.

    Args:
        dictionary: of any kind.
        folder: where.
        model: if given, the hook is the module path in this transformers model, for SAELens's
            `model_class_name="AutoModelForCausalLM"`; by default it is the name that TransformerLens has.
        overwrite: replace a folder that this wrote before.
    Raises: OutputError; OptionError for what is no dictionary.
    """
    from safetensors.torch import save_file

    config = _config(checked_dictionary(dictionary), model)
    where = Path(folder)
    _check_free(where, overwrite=overwrite)
    with replaced_folder(where.resolve()) as draft:
        dictionary.save_pretrained(draft / OURS)
        arrays = {"W_dec": dictionary.atoms.contiguous(), "b_dec": dictionary.mean.contiguous()}
        save_file(arrays, draft / WEIGHTS)
        (draft / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    return where


def _check_free(where: Path, *, overwrite: bool) -> None:
    """Refuse a folder that `export` may not write."""
    if where.is_dir() and overwrite and (there := {path.name for path in where.iterdir()}):
        if not {OURS} <= there <= {CONFIG, WEIGHTS, OURS}:
            raise OutputError(f"{where} exists and was not written by this export, so it stays. Choose another folder.")
        where = where / OURS
    check_free(where, "dictionary", overwrite=overwrite)


def read(folder: str | Path) -> Dictionary:
    """Read a folder of SAELens.

    Returns: what `export` wrote, with its sources, or without them where SAELens saved it again; of another
        autoencoder the decoder as a dictionary of directions without sources: the mean is its bias, steps its k, and a
        pursuit takes the place of its encoder.
    Raises: FormatError if a file is missing or damaged, for an architecture that is unknown or no autoencoder, and
        for one whose activations were normalised in a way that its weights do not undo.
    """
    where = Path(folder)
    config, weights = json_object(where / CONFIG), tensors(where / WEIGHTS)
    architecture = config.get("architecture", "standard")
    if architecture == ARCHITECTURE:
        return _ours(where, config, weights)
    if architecture not in _DECODERS:
        raise FormatError(
            f"{where / CONFIG} is of the architecture {architecture!r}, whose decoder is not known to be directions in "
            f"the space that is read. Known are {', '.join(_DECODERS)} and {ARCHITECTURE}."
        )
    if "W_dec" not in weights:
        raise missing(where / WEIGHTS, "W_dec", weights)
    bias = weights.get("b_dec")
    _check_normalisation(where, config.get("normalize_activations") or "none", bias)
    told = config.get("metadata")
    metadata: dict[str, Any] = {**config, **(told if isinstance(told, dict) else {})}
    activation = config.get("activation_fn_kwargs")
    k = config.get("k", activation.get("k") if isinstance(activation, dict) else None)
    metadata.setdefault("hook_name", metadata.get("hook_point"))  # before its version 6
    hook = metadata["hook_name"]
    site = to_site(hook) if isinstance(hook, str) and to_site(hook) != hook else None
    names = ("model_name", "hook_name", "neuronpedia_id")
    return dictionary_of(
        weights["W_dec"], bias, where=where / WEIGHTS, method=f"sae_lens {architecture}", steps=number(k),
        facts={**{name: metadata.get(name) for name in names}, "site": site},
    )  # fmt: skip


def _ours(where: Path, config: dict[str, Any], weights: dict[str, Any]) -> Dictionary:
    import torch

    decoder, bias = (weights.get(name) for name in ("W_dec", "b_dec"))
    if decoder is None or bias is None:
        raise missing(where / WEIGHTS, "W_dec and b_dec", weights)
    if not (where / OURS).is_dir():  # SAELens saved it, which knows no sources
        found = dictionary_of(decoder, bias, where=where / WEIGHTS, method=f"sae_lens {ARCHITECTURE}")
        try:
            return replace(found, coding=Coding.from_dict(config["coding"]))
        except (KeyError, TypeError, OptionError) as error:
            raise FormatError(f"{where / CONFIG} says nothing that is a way to make codes: {error}") from error
    found = Dictionary.from_pretrained(where / OURS)
    if not (torch.equal(decoder, found.atoms) and torch.equal(bias, found.mean)):
        raise FormatError(f"{where / WEIGHTS} and {where / OURS} are not of the same dictionary. Export it again.")
    return found


def _check_normalisation(where: Path, how: str, bias: Any) -> None:
    centred = bias is not None and bool(bias.any())
    if how == "none" or (how in _SCALED and not centred):  # a pursuit gives scaled rows scaled codes
        return
    advice = "" if how not in _SCALED else " Fold the factor in first: sae.fold_activation_norm_scaling_factor(factor)."
    raise FormatError(
        f"{where / CONFIG} has normalize_activations={how!r}: its directions are not in the units of the model's "
        f"activations.{advice}"
    )


def _config(dictionary: Dictionary, model: Model | None) -> dict[str, Any]:
    """The configuration that SAELens keeps."""
    site = dictionary.site if dictionary.provenance else None
    capture = dictionary.provenance.capture if dictionary.provenance else {}
    hook = hook_of(dictionary, model) if site else None
    metadata = {
        "sae_lens_version": _LAYOUT,
        "model_name": model.id if model else dictionary.model_id if dictionary.provenance else None,
        "hook_name": hook,
        "model_class_name": "AutoModelForCausalLM" if model else None,
        "context_size": capture.get("window"),
        "prepend_bos": prepends_bos(dictionary) if dictionary.provenance else None,
    }
    return {
        "architecture": ARCHITECTURE,
        "d_in": dictionary.width,
        "d_sae": len(dictionary),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if hook and hook.endswith("hook_z") else "none",
        "coding": to_plain(dictionary.coding.to_dict()),
        "metadata": {name: value for name, value in metadata.items() if value is not None},
    }


def prepends_bos(dictionary: Dictionary) -> bool:
    """Whether the windows that a dictionary was built from begin with a special token."""
    capture: Any = dictionary.provenance.capture if dictionary.provenance else {}
    asked = capture.get("bos")
    return bool(capture.get("counts", {}).get("begins", 0)) if asked is None else bool(asked)


def hook_of(dictionary: Dictionary, model: Model | None = None) -> str | None:
    """What SAELens calls a dictionary's place: TransformerLens's hook, or with a model the module it is read at."""
    site = dictionary.site
    if model is None:
        capture = dictionary.provenance.capture if dictionary.provenance else {}
        return to_hook(site, norms_follow=bool(capture.get("norms_follow")))
    place = model.site(site)
    return place.module if place.side == "output" else to_hook(site, norms_follow=norms_follow(model.module))


def _classes() -> tuple[Any, Any]:
    try:
        from itda.adapters import saelens_class
    except ImportError as error:
        raise MissingExtraError("SAELens", "peers") from error
    return saelens_class.ItdaSAE, saelens_class.ItdaSAEConfig
