"""What is lost when a dictionary is merged from those of shards instead of built in one go.

python benchmarks/bench_merge.py
"""

from typing import Any

from common import DATA, model_folder, report

import itda

TOKENS, HELD_OUT, SAMPLE = 90_000, 10_000, 8192
MODELS = {"babyllama-char105": "resid_post.2", "seeds/gpt2-s21": "resid_post.2"}
SHARDS, OVERSAMPLED = (2, 4, 8), (1, 2, 4)


def main() -> None:
    found: list[dict[str, Any]] = []
    for name, site in MODELS.items():
        model = itda.load_model(model_folder(name))
        train, held_out = itda.Corpus.from_files(DATA / "text" / "tinystories_1000.json").split(held_out=0.1, seed=0)
        atoms = 8 * model.width
        texts = [document.text for document in train]

        def worth(dictionary: itda.Dictionary, how: str, shards: int, each: int, model=model, name=name, text=held_out):
            scores = itda.evaluate(dictionary, model, text, tokens=HELD_OUT, baselines=False, progress=False)
            found.append(
                {
                    "model": name, "how": how, "shards": shards, "atoms a shard": each, "atoms": len(dictionary),
                    "FVU": scores.fvu, "residual FVU": scores.residual_fvu, "delta CE": scores.delta_ce,
                }
            )  # fmt: skip
            print(found[-1], flush=True)

        serial = itda.build(model, train, site=site, atoms=atoms, tokens=TOKENS, progress=False)
        worth(serial, "one build", 1, atoms)
        sample = itda.capture(model, train, site=site, tokens=SAMPLE, progress=False).rows
        for shards in SHARDS:
            for more in OVERSAMPLED:
                each = more * atoms // shards
                parts = [
                    itda.build(
                        model, itda.Corpus.from_texts(texts[shard::shards]), site=site, atoms=each,
                        tokens=TOKENS // shards, progress=False,
                    )
                    for shard in range(shards)
                ]  # fmt: skip
                size = min(atoms, sum(map(len, parts)))
                worth(itda.merge(parts, atoms=size), "merged", shards, each)
                worth(itda.merge(parts, atoms=size, rows=sample), "merged by a sample", shards, each)
    report("merge", found, tokens=TOKENS, held_out=HELD_OUT, sample=SAMPLE)


if __name__ == "__main__":
    main()
