"""The compiled kernel is kept on disk, reported when it is made, and made anew when a part of it changes."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import torch

import itda
from itda.pursuit import numba_cpu, pursue

CODE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
import torch
from itda.pursuit import pursue
print(pursue(torch.ones(2, 3), torch.eye(3), steps=2).atoms.tolist())
"""


KERNEL = """            _pursue(
                chunk * _CHUNK, min(count, (chunk + 1) * _CHUNK), rows, first, slack, spread, atoms, gram, method,
                nonnegative, refit, stops, chosen, coefficients, unexplained, cosine, hard,
            )  # fmt: skip
"""
LITTLE = """            chosen[chunk * _CHUNK : (chunk + 1) * _CHUNK] = 0
"""


def run(folder):
    environment = {**os.environ, "PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_it_is_compiled_once_and_again_when_any_of_its_files_changes(tmp_path):
    shutil.copytree(Path(itda.__file__).parent, tmp_path / "itda", ignore=shutil.ignore_patterns("__pycache__"))
    kernel = tmp_path / "itda" / "pursuit" / "numba_cpu.py"
    code = kernel.read_text()
    assert code.count(KERNEL) == 1
    kernel.write_text(code.replace(KERNEL, LITTLE))  # half a minute to compile otherwise, twice
    first, second = run(tmp_path), run(tmp_path)
    assert "Compiled the pursuit kernel" in first
    assert "Compiled" not in second
    assert second.strip() in first
    loops = tmp_path / "itda" / "pursuit" / "numba_solvers.py"
    loops.write_text(loops.read_text() + "\n# changed\n")
    assert "Compiled the pursuit kernel" in run(tmp_path)


def test_all_that_is_compiled_is_part_of_the_key():
    """What the kernel's files import from this package is frozen into machine code."""
    folder = Path(numba_cpu.__file__).parent
    imported = set()
    for module in ("numba_cpu", "numba_loops", "numba_search", "numba_solvers"):
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("itda.pursuit"):
                parts = (node.module or "").split(".")
                imported |= {parts[2]} if len(parts) > 2 else {alias.name for alias in node.names}
    assert imported - {"codes", "prepared"} <= set(numba_cpu.COMPILED)


def test_the_number_of_threads_is_torch_s(monkeypatch):
    """And is put back: numba's own setting is the user's."""
    asked = []
    before, threads = numba.get_num_threads(), torch.get_num_threads()
    kept = numba.set_num_threads
    monkeypatch.setattr(numba, "set_num_threads", lambda count: (asked.append(count), kept(count)))
    torch.set_num_threads(1)
    try:
        pursue(torch.randn(64, 32), torch.nn.functional.normalize(torch.randn(900, 32), dim=1), steps=30)
    finally:
        torch.set_num_threads(threads)
    assert asked == [1, before]
    assert numba.get_num_threads() == before
