"""A model with its tokenizer, by name, path or object."""

import atexit
import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from itda.errors import MissingExtraError, ModelError, OptionError
from itda.models import fingerprints
from itda.models.by_layer import is_on_disk
from itda.models.hooks import Inputs, aside, inference, read
from itda.models.sites import Site, list_sites, resolve, text_config

EMBEDDED = "embedded"
_DEFAULT_WINDOW = 128
_BITS = {"8bit": "load_in_8bit", "4bit": "load_in_4bit"}
_SPREAD = ("auto", "disk")  # placements that accelerate makes


class Model:
    """A transformers model, its tokenizer, and the places in it.

    Make one with `load_model` or `wrap`. `module` is the transformers model and stays yours: it is
    left as it was found.
    """

    remote = False
    """Whether it runs on other machines, so that every pass takes a while."""

    def __init__(self, module: Any, tokenizer: Any, id: str, *, folder: Path | None = None) -> None:
        self.module = module
        self.tokenizer = tokenizer
        self.id = id
        # The files are the model only as long as nobody changes the weights in memory.
        self._files = fingerprints.files_hash(folder) if folder else None
        self._loaded = fingerprints.parameters_hash(module) if folder else None

    def __repr__(self) -> str:
        return f"Model({self.id}: {type(self.module).__name__}, width {self.width}, {self.dtype} on {self.device})"

    @property
    def device(self) -> torch.device:
        """Where its inputs must be."""
        device: torch.device = self.module.device
        return torch.device("cpu") if device.type == "meta" else device

    @cached_property
    def on_disk(self) -> bool:
        """Whether its weights are read from disk as they are needed: `load_model(device="disk")`."""
        return is_on_disk(self.module)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of its parameters."""
        dtype: torch.dtype = self.module.dtype
        return dtype

    @property
    def precision(self) -> str:
        """What its weights are kept as: the data type, and how they are quantized, if they are."""
        method = getattr(self.module, "quantization_method", None)
        how = getattr(getattr(self.module.config, "quantization_config", None), "quant_method", method)
        bits = next((name for name in _BITS if getattr(self.module, f"is_loaded_in_{name}", False)), how)
        plain = str(self.dtype).removeprefix("torch.")
        return f"{plain}, {getattr(bits, 'value', bits)}" if bits is not None else plain

    @property
    def width(self) -> int:
        """D of the residual stream."""
        return int(text_config(self.module.config).hidden_size)

    @property
    def window(self) -> int:
        """Tokens the model reads at once unless told otherwise: its positions, at most 128."""
        return min(self.positions, _DEFAULT_WINDOW)

    @property
    def positions(self) -> int:
        """The longest input the model takes, in tokens."""
        config = text_config(self.module.config)
        return int(getattr(config, "max_position_embeddings", None) or _DEFAULT_WINDOW) - self.first_position

    @property
    def first_position(self) -> int:
        """The number of a text's first position: RoBERTa and its kin begin behind the padding index."""
        embedding = next((m for n, m in self.module.named_modules() if n.endswith("position_embeddings")), None)
        padding = getattr(embedding, "padding_idx", None)
        return 0 if padding is None else int(padding) + 1

    @property
    def vocabulary(self) -> int:
        """Token ids that the model has an embedding for."""
        return int(self.module.get_input_embeddings().weight.shape[0])

    def sites(self) -> list[Site]:
        """The named places of the model, layer by layer.

        Raises: SiteError for a model without a list of layers; its modules can be named by path.
        """
        return list_sites(self.module)

    def site(self, name: str) -> Site:
        """The place of that name.

        Raises: SiteError that names the nearest ones.
        """
        return resolve(self.module, name)

    def read(self, inputs: Inputs, sites: Sequence[Site]) -> dict[str, torch.Tensor]:
        """The activations (B, T, D) at some sites in one forward pass.

        Raises: SiteError for a place that the pass never reached or that has no row per token.
        """
        return read(self.module, inputs, sites)

    @property
    def middle_site(self) -> str:
        """The residual stream after the middle layer: where to look if nothing else is said."""
        depth = len({site.name for site in self.sites() if site.name.startswith("resid_post")})
        return f"resid_post.{depth // 2}"

    @cached_property
    def causal(self) -> bool:
        """Whether a token sees only what comes before it; found by changing what comes after the first."""
        one, other = (self._first_token(ids) for ids in ([1, 2, 3, 4], [1, 5, 6, 7]))
        if torch.equal(one, other):
            return True
        # Experts see the tokens that were sent to them as one batch: its size touches the last bits.
        experts = any(hasattr(item, "experts") for item in self.module.modules())
        return experts and bool((one - other).norm() <= 8 * torch.finfo(self.dtype).eps * one.norm())

    @cached_property
    def predicts(self) -> bool:
        """Whether it has a next-token loss: causal, with an output over the vocabulary."""
        logits = getattr(self._probe([1, 2]), "logits", None)
        return self.causal and logits is not None and logits.ndim == 3

    def _first_token(self, ids: list[int]) -> torch.Tensor:
        """What the model makes of the first of some tokens; its first layer, if reading all would take long."""
        if self.on_disk or self.remote:
            first = self.site("resid_post.0")
            with aside():
                return self.read(self._tokens(ids), [first])[first.name][0, 0].float()
        found: torch.Tensor = self._probe(ids)[0][0, 0].float()
        return found

    def _probe(self, ids: list[int]) -> Any:
        with aside(), inference(self.module):  # it may first be asked for while the model is steered or read
            return self.module(**self._tokens(ids))

    def _tokens(self, ids: list[int]) -> dict[str, torch.Tensor]:
        tokens = torch.tensor([ids], device=self.device) % self.vocabulary
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    @property
    def record(self) -> fingerprints.ModelRecord:
        """Which model this is at the moment, and how it is run."""
        parameters = fingerprints.parameters_hash(self.module)
        return fingerprints.ModelRecord(
            id=self.id,
            config=fingerprints.config_hash(self.module.config),
            files=self._files if parameters == self._loaded else None,
            parameters=parameters,
            tokenizer=fingerprints.tokenizer_hash(self.tokenizer),
            settings={
                "dtype": self.precision,
                "device": self.device.type,
                "attention": str(getattr(self.module.config, "_attn_implementation", None)),
            },
        )


def checked_model(model: Any) -> Model:
    """The model itself.

    Raises: ModelError if it is something else.
    """
    if not isinstance(model, Model):
        raise ModelError(f"This needs a Model from itda.load_model or itda.wrap. Got {type(model).__name__} instead.")
    return model


def load_model(
    name: str | Path = EMBEDDED,
    *,
    tokenizer: Any = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    attention: str | None = None,
    revision: str | None = None,
    quantization: Any = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a Hugging Face model and its tokenizer.

    Args:
        name: a local folder, a name on the hub, or `embedded`, the small model that ships with itda.
        tokenizer: a name, a folder or a tokenizer, where the model's own folder has none.
        device: `cpu`, `cuda`, `cuda:1`, `auto` to spread it over what there is, or `disk` for a model larger than
            memory: its weights are read as they are needed, and a capture runs it layer by layer. By default the
            accelerator if there is one.
        dtype: data type of the weights; by default float32 on the CPU, and the model's own elsewhere and with `disk`.
            `8bit` and `4bit` are those of bitsandbytes (extra `quantized`).
        attention: transformers' attention implementation (`eager`, `sdpa`, ...).
        revision: of a name on the hub.
        quantization: a quantization configuration of transformers, in place of `8bit` and `4bit`.
        trust_remote_code: let transformers run code from the model's repository.
    Returns: the model in evaluation mode.
    Raises: ModelError that says what is missing.
    """
    import transformers
    from transformers.utils import logging

    if not isinstance(name, str | Path):
        raise ModelError(
            f"load_model needs a folder or a name. Got {type(name).__name__}; itda.wrap takes a model that is loaded."
        )
    source, folder = locate(str(name))
    placement = _placement(device)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    options = {key: value for key, value in options.items() if value}
    logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        bits = _BITS.get(dtype) if isinstance(dtype, str) else None
        if bits is not None:
            quantization, dtype = _quantization(bits, transformers), None
        settings: dict[str, Any] = {"dtype": dtype or ("float32" if placement == "cpu" else "auto"), **options}
        if isinstance(quantization, str):
            raise OptionError(f"quantization is a configuration. Got {quantization!r}; try dtype='8bit' or '4bit'.")
        if quantization is not None:
            settings["quantization_config"] = quantization
            settings["device_map"] = {"": placement}
        if attention:
            settings["attn_implementation"] = attention
        if placement in _SPREAD:
            _needs_accelerate(placement)
            settings["device_map"] = "auto" if placement == "auto" else {"": "disk"}
            # What cannot be read from the model's own files is written here first
            settings["offload_folder"] = tempfile.mkdtemp(prefix="itda-offload-")
            atexit.register(shutil.rmtree, settings["offload_folder"], ignore_errors=True)
        module = model_class(config, transformers).from_pretrained(source, config=config, **settings)
        check_kind(module)
        if placement not in _SPREAD and quantization is None:
            module = module.to(placement)
        if tokenizer is None or isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(tokenizer or source, transformers, options)
    except (ModelError, MissingExtraError):
        raise
    except Exception as error:  # transformers lets through whatever a damaged file led to
        raise ModelError(
            f"The model {str(name)!r} cannot be loaded: {first_lines(error)} "
            "Give a folder with config.json and weights, or a name on the hub."
        ) from error
    finally:
        logging.enable_progress_bar()
    if folder is None:
        folder = _cached_folder(source, revision)
    return Model(module.eval(), fast(tokenizer), str(name), folder=folder)


def wrap(module: Any, tokenizer: Any, *, id: str | None = None) -> Model:
    """Use a transformers model that is already loaded.

    Args:
        module: the transformers model; it stays yours and is left as it was found.
        tokenizer: its fast tokenizer.
        id: what to call it; by default the name it was loaded by.
    Raises: ModelError for something else, or without a tokenizer that knows character offsets.
    """
    if not isinstance(module, nn.Module) or not hasattr(module, "config"):
        raise ModelError(f"wrap needs a transformers model. Got {type(module).__name__} instead.")
    module = getattr(module, "_orig_mod", module)  # what torch.compile has wrapped
    check_kind(module)
    name = id or getattr(module.config, "_name_or_path", "") or type(module).__name__
    return Model(module, fast(tokenizer), name)


def locate(name: str) -> tuple[str, Path | None]:
    """Where a model is: what transformers finds it by, and its folder if it is not on the hub.

    Raises: ModelError for a path with no model.
    """
    if name == EMBEDDED:
        with as_file(files("itda.models") / "embedded") as folder:
            return str(folder), folder
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelError(f"The folder {name} has no config.json, so it holds no Hugging Face model.")
        return name, folder
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"There is no folder {name}. Give a folder with config.json and weights, or a name on the hub."
        )
    return name, None


def _cached_folder(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _placement(device: str | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device not in _SPREAD:
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ModelError(f"There is no device {device!r} here. Use cpu, cuda, cuda:1, auto or disk.") from error
    return device


def _quantization(bits: str, transformers: Any) -> Any:
    """What transformers is told for weights of so many bits.

    Raises: MissingExtraError.
    """
    for needed in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            raise MissingExtraError("A model in 8 or 4 bits", "quantized")
    return transformers.BitsAndBytesConfig(**{bits: True})


def _needs_accelerate(placement: str) -> None:
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError(f"device={placement!r}", "scale")


def check_kind(module: Any) -> None:
    """Refuse models with two streams.

    Raises: ModelError.
    """
    core = getattr(module, "base_model", module)
    if hasattr(core, "encoder") and hasattr(core, "decoder"):
        raise ModelError(
            f"{type(module).__name__} is an encoder-decoder, which has two streams. Load it with transformers and "
            "wrap its encoder: itda.wrap(model.get_encoder(), tokenizer)."
        )


def model_class(config: Any, transformers: Any) -> Any:
    """The class the checkpoint was saved as, where that has a next-token loss; else the bare model."""
    named = (getattr(config, "architectures", None) or [""])[0]
    if named.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return getattr(transformers, named, transformers.AutoModelForCausalLM)
    return transformers.AutoModel


def load_tokenizer(source: Any, transformers: Any, options: dict[str, Any]) -> Any:
    """The tokenizer of that name or folder.

    Raises: ModelError.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # transformers raises whatever the missing file led to
        raise ModelError(
            f"{source} has no tokenizer that can be loaded: {first_lines(error)} "
            "Name another folder or pass a tokenizer: load_model(..., tokenizer=...) (--tokenizer)."
        ) from error


def fast(tokenizer: Any) -> Any:
    """The tokenizer, if it knows which characters a token stands for.

    Raises: ModelError.
    """
    if tokenizer is None:
        raise ModelError("A model needs its tokenizer, to know which text a token stands for. Got None.")
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} does not tell which characters a token stands for. "
            "Use the fast tokenizer of this model (AutoTokenizer gives it where there is one)."
        )
    # Without its files transformers makes an empty tokenizer of the right class, and says nothing.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"This {type(tokenizer).__name__} has no vocabulary: the files of the model's tokenizer are missing. "
            "Name another folder or pass a tokenizer: load_model(..., tokenizer=...) (--tokenizer)."
        )
    return tokenizer


def first_lines(error: Exception) -> str:
    """What an error says, cut to what a person reads."""
    text = " ".join(str(error).split())
    return (text[:300] + " ...") if len(text) > 300 else text
