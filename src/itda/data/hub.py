"""Folders by name: a local path, or a repository on the Hugging Face hub."""

import re
from pathlib import Path

from itda.errors import FormatError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(name: str | Path, revision: str | None) -> Path:
    """The local folder that `name` stands for; a hub repository is downloaded to the cache first.

    Raises: FormatError if there is neither.
    """
    if not isinstance(name, str | Path):
        raise FormatError(f"A dictionary is named by a folder or a hub repository. Got {type(name).__name__} instead.")
    folder = Path(name)
    if folder.exists() or not isinstance(name, str) or not _REPOSITORY.fullmatch(name):
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=["itda.json", "*.safetensors"]))
    except LocalEntryNotFoundError as error:
        raise FormatError(
            f"There is no folder {name!r} here, and the hub cannot be reached for a repository of that name. "
            "Check the path, or the connection (HF_HUB_OFFLINE)."
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise FormatError(
            f"There is no folder {name!r} here, and the hub does not give one: {error}. Check the name."
        ) from error
