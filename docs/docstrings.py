"""Our docstrings as Sphinx reads them: sections that begin on their own line, names in backticks, indented code."""

import re
from typing import Any

_SECTION = re.compile(r"(Args|Returns|Raises|Source|Sources|Yields): ?(.*)")
_PARAMETER = re.compile(r"    (\S[^:]*): (.*)")
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def converted(lines: list[str]) -> list[str]:
    """The lines as reStructuredText."""
    found: list[str] = []
    section, in_code = "", False
    for number, line in enumerate(lines):
        begun = _SECTION.fullmatch(line)
        if begun:
            section = begun[1]
            if found and found[-1] and not found[-1].startswith((":", "    ")):
                found.append("")
            if begun[2]:
                found.append(f":{section.lower() if section == 'Returns' else section}: {begun[2]}")
            continue
        if section and line.startswith("    "):
            parameter = _PARAMETER.fullmatch(line) if section == "Args" and not line.startswith("     ") else None
            if parameter:  # several that share a text stand one under the other, before it
                *others, last = parameter[1].split(", ")
                found += [f":param {other}:" for other in others]
            found.append(f":param {last}: {parameter[2]}" if parameter else f"    {line.strip()}")
            continue
        if line.strip():
            if section:
                section = ""
                found.append("")
            indented = line.startswith("    ")
            if indented and not in_code and number and not lines[number - 1].strip():
                found += ["::", ""]
            in_code = indented
        found.append(line)
    return [line if line.startswith("    ") and not section else _CODE.sub(r"``\1``", line) for line in found]


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """For the event autodoc-process-docstring."""
    lines[:] = converted(lines)
