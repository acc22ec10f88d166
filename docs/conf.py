"""The site: `make docs` builds it, offline. Pages of the reference are written anew each time."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tools")]
import docstrings
import reference_pages

project = "itda"
author = "The itda developers"
copyright = author
version = release = importlib.metadata.version("itda")

(HERE / "reference").mkdir(exist_ok=True)
for name, text in {"index": reference_pages.index(), **reference_pages.pages()}.items():
    (HERE / "reference" / f"{name}.md").write_text(text, encoding="utf-8")

extensions = ["myst_nb", "sphinx.ext.autodoc"]
source_suffix = {".md": "myst-nb"}
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = f"itda {version}"
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}
html_show_sourcelink = False
html_sidebars = {"*": []}  # the guides stand above; only the reference has pages under it

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_output_stderr = "remove"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}


def setup(app: Any) -> None:
    """Docstrings are read as we write them."""
    app.connect("autodoc-process-docstring", docstrings.process)
