"""The command line in this process, in the folder `place` of the module that tests it."""

import sys

import pytest

from itda.cli import main


@pytest.fixture
def run(monkeypatch, capsys, place):
    monkeypatch.chdir(place)

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["itda", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        assert stopped.value.code == code, output.err
        return output.err if code else output.out

    return run
