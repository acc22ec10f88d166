"""A training run of four atoms over three checkpoints, as it might have been seen."""

import torch

import itda
from itda.compare.run_report import Checkpoint, FollowedAtom, TrainingRun

# born, and at each checkpoint: how well it tells its tokens; what leaving it out, and leaving out another, costs
ATOMS = (
    (0, (0.7, 0.8, 0.9), ((0.1, 0.0), (0.3, 0.1), (0.5, 0.1))),
    (1, (0.5, 0.8, 0.9), ((0.1, 0.1), (0.5, 0.1), (0.8, 0.2))),
    (2, (0.5, 0.5, 0.9), ((0.0, 0.0), (0.2, 0.1), (0.7, 0.1))),
    (2, (0.5, 0.6, 0.7), None),
)


def training_run() -> TrainingRun:
    dictionary = itda.build_from_activations(torch.eye(8), atoms=4, steps=1, progress=False)
    return TrainingRun(
        model="tiny", site="resid_post.1", dictionary=dictionary, tokens=100, documents=10, unwatched=2,
        checkpoints=tuple(
            Checkpoint(
                name=f"step{step}", overlap=step / 2, fvu=0.1,
                layers={"overlap": {"resid_post.0": 0.2 + 0.4 * step, "resid_post.1": step / 2}},
            )
            for step in range(3)
        ),
        atoms=tuple(
            FollowedAtom(
                atom=atom, source=dictionary.sources[atom], tokens=12, found=told, told=told, born=born,
                interval=(born, born), costs=costs, needed=2 if costs else None,
            )
            for atom, (born, told, costs) in enumerate(ATOMS)
        ),
    )  # fmt: skip
