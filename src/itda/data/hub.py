"""Folders by name: a local path, or a repository on the Hugging Face hub."""

import re
from pathlib import Path

from itda.errors import FormatError

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_KEPT = ["itda.json", "*.safetensors"]
"""All that is taken from a repository: nothing in it can run."""


def is_repository(name: str) -> bool:
    """Whether a name could be one on the hub, as `user/name`."""
    return bool(_REPOSITORY.fullmatch(name))


def local_folder(name: str | Path, revision: str | None) -> Path:
    """The local folder that `name` stands for; a hub repository is downloaded to the cache first.

    A connection that breaks off is taken up where it was; after a download that failed, files that were complete are
    not fetched again.

    Raises: FormatError if there is neither, or the hub does not give it.
    """
    if not isinstance(name, str | Path):
        raise FormatError(f"A dictionary is named by a folder or a hub repository. Got {type(name).__name__} instead.")
    folder = Path(name)
    if folder.exists() or not isinstance(name, str) or not is_repository(name):
        return folder
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_KEPT))
    except failures() as error:
        at = f" at the revision {revision!r}" if revision else ""
        raise FormatError(
            f"There is no folder {name!r} here, and the hub does not give a dictionary of that name{at}: {said(error)}"
        ) from error
    if not (folder / _KEPT[0]).exists():
        raise FormatError(f"The repository {name!r} on the hub holds no dictionary: it has no {_KEPT[0]}.")
    return folder


def failures() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises where it does not get through."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    # The errors of a broken connection are those of its HTTP package, which depends on its version
    of_http = HfHubHTTPError.__bases__[0]
    return (of_http, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError, RuntimeError)


def said(error: Exception) -> str:
    """What a hub that refuses has said, and what to do about it, in one or two sentences."""
    status = _status(error)
    advice = {
        401: "It does not know you, or the repository is private or does not exist: check the name, and log in "
             "(hf auth login, or HF_TOKEN).",
        403: "You may not do that there: ask for access, or use a token that may write.",
        404: "There is no such repository or revision: check the name.",
        429: "It gets too many requests: wait a few minutes, and try again.",
    }  # fmt: skip
    if status in advice:
        return f"it answers {status}. {advice[status]}"
    if status is not None and status >= 500:
        return f"it answers {status}: the trouble is on its side. Try again later; what is there already is kept."
    if _is_connection(error):
        return (
            "it cannot be reached, or the connection broke off. Check the connection (HF_HUB_OFFLINE, HF_ENDPOINT; "
            "HF_HUB_DISABLE_XET=1 is another way for large files), and try again: what is there already is kept."
        )
    return f"{' '.join(str(error).split())[:300]}. Check the name."


def _status(error: BaseException | None) -> int | None:
    """The status that a server answered with, wherever in the chain of errors it is."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None


def _is_connection(error: BaseException | None) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    kinds = (ConnectionError, TimeoutError, LocalEntryNotFoundError, OfflineModeIsEnabled)
    while error is not None:
        # By name: which package of HTTP huggingface_hub uses depends on its version
        transport = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
        if transport or isinstance(error, kinds) or "Consistency check failed" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
