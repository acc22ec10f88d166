"""The embedded corpus: text that every Python installation carries.

The language reference of `pydoc_data.topics` and the docstrings of the standard library, read from
the running interpreter. Source files are parsed, never imported, so reading them runs no code.
The text differs a little between Python versions; the corpus fingerprint says so.
"""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Test suites, a second copy of the grammar, generated tables and other people's packages.
_SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
_SHORTEST_DOCUMENT = 400  # characters; a run reads a window of each document, however little is in it

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def embedded_documents() -> Iterator[str]:
    """Yield the documents of the embedded corpus, always in the same order on one installation."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name].strip()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED_FOLDERS.isdisjoint(parts):
            yield from _module_documents(path, ".".join(parts).removesuffix(".__init__"))


def _module_documents(path: Path, module: str) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):  # a damaged or unreadable file is no document
        return
    definitions = [node for node in tree.body if isinstance(node, _Definition)]
    texts = [_titled(f"The module {module}", ast.get_docstring(tree))]
    texts += ["\n\n".join(_definition_texts(node, module)) for node in definitions]
    yield from (text for text in texts if len(text) >= _SHORTEST_DOCUMENT)


def _definition_texts(node: _Definition, prefix: str) -> Iterator[str]:
    name = f"{prefix}.{node.name}"
    title = f"class {name}" if isinstance(node, ast.ClassDef) else f"{name}({ast.unparse(node.args)})"
    if text := _titled(title, ast.get_docstring(node)):
        yield text
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            if isinstance(child, _Definition):
                yield from _definition_texts(child, node.name)


def _titled(title: str, docstring: str | None) -> str:
    return f"{title}\n\n{docstring.strip()}" if docstring else ""
