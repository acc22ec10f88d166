"""What people write about atoms, kept beside the dictionary and apart from what can be made again."""

import json
from pathlib import Path
from threading import Lock

from itda.data.files import write_text
from itda.errors import FormatError, OptionError

LONGEST = 10_000
"""Characters of a note."""
_FORMAT = "itda.notes"


class Notes:
    """The notes on one dictionary's atoms, in a JSON file that is written whole or not at all.

    They are kept by the dictionary's fingerprint: one that is built anew begins without any, and loses none.
    """

    def __init__(self, dictionary: str | Path, fingerprint: str) -> None:
        path = Path(dictionary)
        self.path = path.with_name(f"{path.name}.notes.json")
        self._fingerprint = fingerprint
        self._lock = Lock()
        _ = self._read()  # damaged notes are said at once, not when the first one is lost

    def __getitem__(self, atom: int) -> str:
        return self._read().get(self._fingerprint, {}).get(str(atom), "")

    def all(self) -> dict[int, str]:
        """Every note by atom."""
        return {int(atom): text for atom, text in self._read().get(self._fingerprint, {}).items()}

    def write(self, atom: int, text: str) -> None:
        """Keep a note; an empty one takes it away.

        Raises: OptionError for a note that is too long; OutputError if it cannot be written; FormatError.
        """
        if len(text) > LONGEST:
            raise OptionError(f"A note has at most {LONGEST:,} characters. Got {len(text):,}.")
        with self._lock:
            kept = self._read()
            own = {**kept.get(self._fingerprint, {}), str(atom): text}
            if not text.strip():
                del own[str(atom)]
            content = {"format": _FORMAT, "version": 1, "notes": {**kept, self._fingerprint: own}}
            write_text(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            notes = content["notes"]
            if content["format"] != _FORMAT or not all(isinstance(own, dict) for own in notes.values()):
                raise ValueError("it is no file of notes")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(
                f"The notes in {self.path} cannot be read: {error}. Mend the file or move it away."
            ) from error
        found: dict[str, dict[str, str]] = notes
        return found
