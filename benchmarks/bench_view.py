"""The viewer with 16,384 atoms: how long it takes to start, to answer a page, and to filter the table in the browser.

python benchmarks/bench_view.py

A dictionary of random activations of the larger GPT-2, whose pages are prepared from the same text. Times are medians;
the browser is the machine's chromium, and the first page counts all that it loads before the table can be used.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from common import DATA, model_folder, report

import itda
from itda.view.preparing import prepare

ATOMS, TOKENS = 16_384, 100_000
RUNS = 9
ASKED = ("e", "the", "king", "of the", "1234", "zzzz")
FILTER = """
async (wanted) => {
  const filter = document.getElementById('filter');
  const before = performance.now();
  filter.value = wanted;
  filter.dispatchEvent(new Event('input'));
  document.getElementById('table').getBoundingClientRect();  // lays it out
  return performance.now() - before;
}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "large"
        preparing = made(folder)
        started = [start(folder) for _ in range(RUNS)]
        process, address = serve(folder)
        try:
            pages = {
                "dictionary page": f"{address}d/large/index.html", "atom page": f"{address}d/large/atoms/%d.html",
                "explain page": f"{address}d/large/explain.html", "all atoms": f"{address}d/large/atoms.js",
            }  # fmt: skip
            answers = {name: answered(url) for name, url in pages.items()}
            loaded, ready, filtered = in_browser(pages["dictionary page"])
        finally:
            process.terminate()
            process.wait()
    rows = [
        {"what": "start until a page is answered, s", "measured": round(statistics.median(started), 2), "bar": 2.0},
        *({"what": f"{name}, ms", "measured": round(1000 * seconds, 1), "bar": 100.0 if "page" in name else ""}
          for name, seconds in answers.items()),
        {"what": "filter in the browser, ms", "measured": round(statistics.median(filtered), 1), "bar": 100.0},
        {"what": "filter in the browser, the slowest, ms", "measured": round(max(filtered), 1), "bar": ""},
        {"what": "first page with all it loads, kB", "measured": round(loaded / 1000, 1), "bar": 500.0},
        {"what": "first page until the table can be used, s", "measured": round(ready, 2), "bar": ""},
        {"what": "prepare, once, s", "measured": round(preparing, 1), "bar": ""},
    ]  # fmt: skip
    report("view", rows, atoms=ATOMS, tokens=TOKENS, runs=RUNS)


def made(folder: Path) -> float:
    """A dictionary and its pages; seconds to prepare these."""
    model = itda.load_model(model_folder("gpt2-wide"))
    corpus = itda.Corpus.from_files(DATA / "text" / "wikitext_1000.json")
    dictionary = itda.build(model, corpus, atoms=ATOMS, tokens=TOKENS, steps=16, method="random")
    dictionary.save_pretrained(folder)
    begin = time.perf_counter()
    prepare(dictionary, model, corpus, name=folder.name, tokens=TOKENS).save(folder)
    return time.perf_counter() - begin


def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A viewer of its own process, once it answers."""
    command = [sys.executable, "-m", "itda", "view", str(folder), "--no-browser", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert process.stdout is not None
    address = process.stdout.readline().split()[2]
    answered(address, runs=1)
    return process, address


def start(folder: Path) -> float:
    begin = time.perf_counter()
    process, _ = serve(folder)
    seconds = time.perf_counter() - begin
    process.terminate()
    process.wait()
    return seconds


def answered(url: str, runs: int = 30) -> float:
    """Median seconds until a page is there; each time another atom."""
    times = []
    for run in range(runs):
        begin = time.perf_counter()
        with urllib.request.urlopen(url % (run * 397 % ATOMS) if "%d" in url else url) as answer:
            answer.read()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def in_browser(url: str) -> tuple[float, float, list[float]]:
    """Bytes of the first page as they come over the wire, seconds until its table can be used, and filters' ms."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise SystemExit("There is no chromium on this machine. Install it: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        sizes: list[float] = []
        page.on("requestfinished", lambda request: sizes.append(request.sizes()["responseBodySize"]))
        begin = time.perf_counter()
        page.goto(url)
        page.wait_for_selector("#filter:enabled")
        ready = time.perf_counter() - begin
        filtered = [page.evaluate(FILTER, wanted) for _ in range(RUNS) for wanted in ASKED]
        browser.close()
    return sum(sizes), ready, filtered


if __name__ == "__main__":
    main()
