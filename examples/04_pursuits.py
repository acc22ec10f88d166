"""The pursuit by itself: unit vectors in, sparse codes out, by several methods and within a memory budget."""

import torch

from itda.pursuit import Coding, prepare, pursue, rebuild

generator = torch.Generator().manual_seed(0)
shared = torch.randn(8, 64, generator=generator)


def draw(count: int) -> torch.Tensor:
    """Rows with a common low-rank part, as activations have."""
    return torch.randn(count, 8, generator=generator) @ shared + torch.randn(count, 64, generator=generator)


rows, atoms = draw(2_000), torch.nn.functional.normalize(draw(512), dim=1)
prepared = prepare(atoms)  # once; every pursuit on these atoms uses it

for name, coding in {
    "matching pursuit": Coding(steps=12),
    "  coefficients fitted at the end": Coding(steps=12, refit=True),
    "  no coefficient below zero": Coding(steps=12, nonnegative=True),
    "  easy rows stop at 30 % unexplained": Coding(steps=12, stop_at=0.3),
    "gradient pursuit": Coding(steps=12, method="gp"),
    "orthogonal matching pursuit": Coding(steps=12, method="omp"),
}.items():
    codes = pursue(rows, prepared, coding)
    print(f"{name:<36} {codes.unexplained.mean():6.1%} unexplained, {codes.l0.double().mean():4.1f} atoms a row")

error = (rows - rebuild(codes, atoms)).norm() / rows.norm()
print(f"The last ones leave {error:.1%} of the rows' length; they ran on: {codes.route}")

small = prepare(atoms, memory="100 KB")  # too little for all inner products: those of the atoms in use are kept
print(f"With 100 KB: {pursue(rows, small, steps=12).route}")
