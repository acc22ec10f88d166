"""What it costs to start: importing itda against bare Python, and the demo.

python benchmarks/bench_start.py
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from common import report

RUNS = 15


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    pairs = [(seconds("pass"), seconds("import itda")) for _ in range(RUNS)]  # side by side: the machine is noisy
    bare, with_itda = (statistics.median(times) for times in zip(*pairs, strict=True))
    added = statistics.median(second - first for first, second in pairs)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "itda", "demo", "--out", f"{folder}/demo"]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        demo = time.perf_counter() - started
    rows = [
        {"what": "python -c pass", "seconds": bare, "limit": ""},
        {"what": "python -c 'import itda'", "seconds": with_itda, "limit": ""},
        {"what": "added by import itda", "seconds": added, "limit": 0.3},
        {"what": "itda demo", "seconds": demo, "limit": 60.0},
    ]
    report("start", rows, runs=RUNS)


if __name__ == "__main__":
    main()
