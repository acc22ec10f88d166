"""Runs what README.md and the guides in docs/ show."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from itda.cli import main

ROOT = Path(__file__).parent.parent.parent


def blocks(language, page="README.md"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run_python(page, names=None):
    """Every block of Python on a page, one after the other; the names they leave."""
    names = {} if names is None else names
    for block in blocks("python", page):
        exec(compile(block, page, "exec"), names)
    return names


def run_commands(lines, monkeypatch, capsys):
    """Every one ends well and says something."""
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line.removeprefix("$ ")))
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        assert stopped.value.code == 0, (line, output.err)
        assert output.out.strip(), line
