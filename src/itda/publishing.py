"""A dictionary with a card that says what it is, on the Hugging Face hub."""

import tempfile
from pathlib import Path

from itda.data.dictionary import Dictionary
from itda.errors import OutputError

_QUOTED = 5  # atoms shown on the card


def card(dictionary: Dictionary, repo_id: str) -> str:
    """The model card: what it is made of, how to use it, and its most used atoms."""
    build = dictionary.build
    facts = {"atoms": f"{len(dictionary):,} of width {dictionary.width}", "codes": str(dictionary.coding)}
    front = ["---", "library_name: itda", "tags:", "- itda", "- interpretability"]
    if dictionary.provenance:
        facts |= {"model": dictionary.model_id, "site": dictionary.site, "corpus": dictionary.provenance.corpus_name}
        if "/" in dictionary.model_id and not Path(dictionary.model_id).exists():
            front.append(f"base_model: {dictionary.model_id}")
    facts |= {
        "built by": f"{build.method}, from {build.rows:,} activations",
        "unexplained share": f"{build.unexplained:.1%} on a sample of those",
        "versions": ", ".join(f"{name} {number}" for name, number in build.versions.items()),
    }
    most_used = dictionary.usage_counts.argsort(descending=True, stable=True)[:_QUOTED].tolist()
    return "\n".join(
        [
            *front,
            "---",
            f"# {repo_id}",
            "",
            "A dictionary of real activations, each labelled with the text it came from, made with itda"
            " (Inference-Time Decomposition of Activations).",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            "",
            "```python",
            "import itda",
            "",
            f'dictionary = itda.Dictionary.from_pretrained("{repo_id}")',
            "codes = dictionary.encode(activations)",
            "```",
            "",
            "Its most used atoms, with the token in brackets:",
            "",
            *(f"    {atom:>6}  {dictionary.describe(atom)}" for atom in most_used),
            "",
        ]
    )


def push(dictionary: Dictionary, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Upload a dictionary and its card to the hub.

    Args:
        repo_id: `user/name`; made if it is not there.
        private: whether a new repository is.
        token: of the hub, if not logged in.
    Returns: the address of the upload.
    Raises: OutputError if the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            saved = dictionary.save_pretrained(Path(folder) / "dictionary")
            (saved / "README.md").write_text(card(dictionary, repo_id), encoding="utf-8")
            return str(api.upload_folder(repo_id=repo_id, folder_path=saved, commit_message="Upload dictionary"))
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"The dictionary cannot be uploaded to {repo_id!r}: {error}. Check the name, and that you are logged in."
        ) from error
