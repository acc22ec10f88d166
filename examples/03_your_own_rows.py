"""Any matrix can be decomposed: embeddings, recordings, activations of a model we know nothing of."""

import torch

import itda

generator = torch.Generator().manual_seed(0)
parts = torch.randn(40, 64, generator=generator)
mixture = torch.rand(5_000, 40, generator=generator) ** 8  # mostly small: a few parts dominate each row
rows = mixture @ parts

dictionary = itda.build_from_activations(rows, atoms=200, steps=6)
codes = dictionary.encode(rows)
print(f"{codes.unexplained.mean():.1%} unexplained with {codes.l0.double().mean():.1f} atoms a row")
print(f"Atom 3 is row {dictionary.sources[3].row}")

rebuilt = dictionary.decode(codes)
print(f"Largest error: {(rows - rebuilt).abs().max():.2f}, largest value: {rows.abs().max():.2f}")
