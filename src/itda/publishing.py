"""A dictionary with a card that says what it is, on the Hugging Face hub."""

import importlib.util
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

from itda.data import hub
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import OptionError, OutputError
from itda.evaluation.report import Report
from itda.models.loading import EMBEDDED
from itda.options import one_of

Texts = Literal["window", "none"]
"""What is uploaded of the texts that atoms come from: what the model had read around them, or the tokens alone."""

_QUOTED = 5  # atoms shown on the card
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_PICTURE = "fidelity.png"
_MADE_OF = {
    "activations": "Real activations of a model, each labelled with the text and token it came from",
    "mixtures": "Mixtures of a few real activations of a model each, labelled with the texts and tokens they came from",
    "learned": "Learned directions in the space of a model's activations",
}


def card(
    dictionary: Dictionary,
    repo_id: str,
    *,
    report: Report | None = None,
    license: str | None = None,
    picture: str | None = None,
) -> str:
    """The model card, as Markdown: what it is made of, how it was built, what it is worth, how to use it.

    Args:
        dictionary: what the card is of.
        repo_id: its name on the hub.
        report: of `itda.evaluate`, for the table of fidelity.
        license: as the hub names them (`mit`, `apache-2.0`, `cc-by-4.0`); None if none is given.
        picture: file in the repository that is shown.
    Raises: OptionError for what is no dictionary, name or report.
    """
    checked_dictionary(dictionary)
    if not isinstance(repo_id, str) or not hub.is_repository(repo_id):
        raise OptionError(f"A repository on the hub is called user/name. Got {repo_id!r}.")
    if report is not None and not isinstance(report, Report):
        raise OptionError(f"The report on a card is that of itda.evaluate. Got {type(report).__name__}.")
    if license is not None and not (isinstance(license, str) and _LICENCE.fullmatch(license)):
        raise OptionError(f"A licence is named as the hub does, as in mit or cc-by-4.0. Got {license!r}.")
    most_used = dictionary.usage_counts.argsort(descending=True, stable=True)[:_QUOTED].tolist()
    parts = [
        *_front(dictionary, license),
        f"# {repo_id}",
        "",
        f"{_MADE_OF[dictionary.kind]}: a dictionary made with itda (Inference-Time Decomposition of Activations). A "
        "pursuit writes any activation of that place as a sparse sum of them.",
        "",
        *_table(["", ""], [[name, value] for name, value in _facts(dictionary).items()]),
        "",
        *(f"- {note}" for note in dictionary.build.notes),
        "",
        "## Use",
        "",
        "```python",
        "import itda",
        "",
        f'dictionary = itda.Dictionary.from_pretrained("{repo_id}")',
        *_use(dictionary),
        "```",
        "",
        *(_worth(report, picture) if report is not None else []),
    ]
    if dictionary.build.rows:
        parts += ["## Its most used atoms", "", "The token is in brackets.", ""]
        parts += [f"    {atom:>6}  {dictionary.describe(atom)}" for atom in most_used]
    said = f"`{license}`" if license else "None is stated for this dictionary"
    parts += [
        "", "## Licence", "",
        f"{said}. It holds activations of the model and, unless they were left out, texts of the corpus: what their "
        "licences ask holds for them.", "",
    ]  # fmt: skip
    return "\n".join(parts)


def push(
    dictionary: Dictionary,
    repo_id: str,
    *,
    report: Report | None = None,
    texts: Texts = "window",
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Upload a dictionary and its card to the hub.

    Args:
        dictionary: what is uploaded.
        repo_id: `user/name`; made if it is not there.
        report: of `itda.evaluate`, for the card; with it a picture, where matplotlib is installed (extra `plots`).
        texts: `window` uploads the text that the model had read around each atom; `none` leaves all text out but the
            atoms' own tokens, for a corpus that is private. Document ids are hashes of whole documents.
        license: as the hub names them.
        private: whether a new repository is.
        token: of the hub, if not logged in.
    Returns: the address of the upload.
    Raises: OptionError; OutputError if the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    checked_dictionary(dictionary)
    one_of("texts", texts, ("window", "none"))
    shown = _without_paths(dictionary.without_texts() if texts == "none" else dictionary)
    picture = _PICTURE if report is not None and importlib.util.find_spec("matplotlib") else None
    text = card(shown, repo_id, report=report, license=license, picture=picture)
    with tempfile.TemporaryDirectory() as folder:
        saved = shown.save_pretrained(Path(folder) / "dictionary")
        (saved / "README.md").write_text(text, encoding="utf-8")
        if report is not None and picture:
            from itda.view import figures

            figures.save(figures.fidelity({"this dictionary": report}), saved / picture)
        try:
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=saved, commit_message="Upload dictionary"))
        except hub.failures() as error:
            raise OutputError(f"The dictionary cannot be uploaded to {repo_id!r}: {hub.said(error)}") from error


def _without_paths(dictionary: Dictionary) -> Dictionary:
    """The same, with a model of a folder called by its name: where that is on one machine is nobody else's concern."""
    provenance = dictionary.provenance
    if provenance is None or not Path(provenance.model.id).exists():
        return dictionary
    model = replace(provenance.model, id=Path(provenance.model.id).resolve().name)
    return replace(dictionary, provenance=replace(provenance, model=model))


def _front(dictionary: Dictionary, license: str | None) -> list[str]:
    lines = ["---", "library_name: itda", "tags:", "- itda", "- interpretability", "- sparse-coding"]
    if license:
        lines.append(f"license: {license}")
    if dictionary.provenance and hub.is_repository(dictionary.model_id) and not Path(dictionary.model_id).exists():
        lines.append(f"base_model: {dictionary.model_id}")
    return [*lines, "---"]


def _facts(dictionary: Dictionary) -> dict[str, str]:
    build, provenance = dictionary.build, dictionary.provenance
    facts = {"atoms": f"{len(dictionary):,} of width {dictionary.width}", "codes": str(dictionary.coding)}
    if provenance:
        facts |= {
            "model": Path(dictionary.model_id).name if Path(dictionary.model_id).exists() else dictionary.model_id,
            "site": dictionary.site,
            "corpus": f"{provenance.corpus_name}, {len(dictionary.documents):,} documents",
        }
    facts["built by"] = f"{build.method}, from {build.rows:,} activations" if build.rows else build.method
    if build.unexplained is not None and build.rows:
        facts["unexplained share"] = f"{build.unexplained:.1%} on a sample of those"
    facts["versions"] = ", ".join(f"{name} {number}" for name, number in build.versions.items())
    return facts


def _use(dictionary: Dictionary) -> list[str]:
    if dictionary.provenance is None:
        return ["codes = dictionary.encode(activations)"]
    known = hub.is_repository(dictionary.model_id) or dictionary.model_id == EMBEDDED
    name = dictionary.model_id if known else "path/to/the/model"
    return [
        f'model = itda.load_model("{name}")',
        'print(itda.explain(dictionary, model, "Once upon a time"))',
        "codes = dictionary.encode(activations)       # float (N, D), of the site above",
    ]


def _worth(report: Report, picture: str | None) -> list[str]:
    rows = [
        [name.strip(), *("" if value is None else f"{value:.4f}" for value in scores)]
        for name, scores in (
            ("this dictionary", _scores(report)),
            *((name, _scores(beside)) for name, beside in report.baselines.items()),
        )
    ]
    shown = [f"![FVU on held-out text]({picture})", ""] if picture else []
    return [
        "## Fidelity", "",
        f"On {report.tokens:,} tokens of {report.documents:,} documents that it was not built from; L0 "
        f"{report.l0:.1f}. FVU: unexplained share of the variance; residual: of what the token alone does not say; "
        "ΔCE: rise of the next-token loss with the reconstruction in place.", "",
        *_table(["", "FVU", "residual FVU", "ΔCE, nats", "CE score", "KL, nats"], rows), "", *shown,
    ]  # fmt: skip


def _scores(of: object) -> list[float | None]:
    return [getattr(of, name) for name in ("fvu", "residual_fvu", "delta_ce", "ce_score", "kl")]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
