"""Sparse autoencoders trained by sae-lens on rows that are already there, as a peer to measure against."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from common import clock
from scoring import Way
from torch import Tensor

BATCH = 4096


@dataclass
class TrainedSae:
    """A trained autoencoder and what it took."""

    sae: Any
    seconds: float
    passes: int
    rate: float

    @property
    def way(self) -> Way:
        """How it writes rows and reads them."""
        return Way(self.features, self._decode)

    def features(self, rows: Tensor) -> Tensor:
        """Of rows (n, D), float32 (n, F), dense."""
        with torch.no_grad():
            found: Tensor = self.sae.encode(rows)
        return found.to_dense() if found.is_sparse else found

    def _decode(self, features: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.sae.decode(features), (features != 0).sum(1)

    def directions(self) -> tuple[Tensor, Tensor]:
        """Its decoder's rows at norm 1 (A, D), and the bias (D,), for a pursuit on them."""
        decoder = self.sae.W_dec.detach()
        lengths = torch.linalg.vector_norm(decoder, dim=1)
        return decoder[lengths > 0] / lengths[lengths > 0, None], self.sae.b_dec.detach().clone()

    def keep(self, folder: Path) -> None:
        """Write it down."""
        folder.mkdir(parents=True, exist_ok=True)
        self.sae.save_model(folder)
        facts = {"seconds": self.seconds, "passes": self.passes, "rate": self.rate}
        (folder / "training.json").write_text(json.dumps(facts))

    @classmethod
    def kept(cls, folder: Path) -> Self | None:
        """What `keep` wrote, or None."""
        from sae_lens import SAE

        if not (folder / "training.json").exists():
            return None
        return cls(SAE.load_from_disk(folder).eval(), **json.loads((folder / "training.json").read_text()))


def train(
    rows: Tensor,
    atoms: int,
    steps: int,
    *,
    kind: str = "topk",
    rate: float,
    passes: int,
    seed: int,
    start: Tensor | None = None,
) -> TrainedSae:
    """Train on rows (N, D), `passes` times over all of them.

    Args:
        rows: the activations.
        atoms: features.
        steps: features that are active in a row (topk), or on average (batchtopk).
        kind: `topk` or `batchtopk`.
        rate: learning rate; a tenth of the steps warm up, the last fifth decays to zero.
        passes: over all rows.
        seed: of the initialisation and of the order of the rows.
        start: unit rows (A, D) that the decoder and the encoder begin as, instead of random ones.
    """
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # where it is trained; it is used on the CPU
    rows = rows.to(device)
    kinds = {
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
        "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    }
    make, options = kinds[kind]
    sae = make(options(d_in=rows.shape[1], d_sae=atoms, k=steps, device=device, dtype="float32",
                       normalize_activations="expected_average_only_in"))  # fmt: skip
    with torch.no_grad():
        sae.b_dec.copy_(rows.mean(0) * scale(rows))
        if start is not None:
            sae.W_dec.copy_(start)
            sae.W_enc.copy_(start.T)
    total = passes * len(rows)
    updates = total // BATCH
    how = SAETrainerConfig(
        total_training_samples=total,
        train_batch_size_samples=BATCH,
        lr=rate,
        lr_end=0.0,
        lr_warm_up_steps=updates // 10,
        lr_decay_steps=updates // 5,
        device=device,
        dead_feature_window=max(50, 10 * len(rows) // BATCH),
    )
    begin = clock()
    with redirect_stderr(io.StringIO()):
        SAETrainer(how, sae, batches(rows, seed)).fit()
    if device != "cpu":
        torch.cuda.synchronize()
    seconds = clock() - begin
    made = inference(sae)
    if kind == "batchtopk":
        # Folding the scale of the rows into the weights (sae-lens 6.54) leaves the threshold where it was
        made.threshold.data.div_(scale(rows))
    return TrainedSae(made, seconds, passes, rate)


def inference(sae: Any) -> Any:
    """The autoencoder as it is used: batchtopk with the threshold that it learned."""
    from sae_lens import SAE

    inner = SAE.from_dict(sae.cfg.get_inference_sae_cfg_dict())
    state = sae.state_dict()
    sae.process_state_dict_for_saving_inference(state)
    inner.load_state_dict(state)
    return inner.eval().to("cpu")


def use_as_many(sae: Any, rows: Tensor, wanted: float) -> None:
    """Scale the threshold of a batchtopk so that rows use as many features in the mean as were asked for."""
    own = sae.threshold.detach().clone()

    def mean(times: float) -> float:
        with torch.no_grad():
            sae.threshold.copy_(own * times)
            return sum(int((sae.encode(part) != 0).sum()) for part in torch.split(rows, BATCH)) / len(rows)

    threshold_for(mean, wanted, around=1.0)


def threshold_for(mean: Callable[[float], float], wanted: float, *, around: float) -> float:
    """The threshold, within ten times of `around`, at which `mean` of it is what is wanted, to within half a percent.

    Raises: RuntimeError if none is.
    """
    low, high, found = around / 10, around * 10, 0.0
    for _ in range(24):
        middle = (low * high) ** 0.5
        found = mean(middle)
        if abs(found - wanted) <= 0.001 * wanted:
            break
        low, high = (middle, high) if found > wanted else (low, middle)
    if abs(found - wanted) > 0.005 * wanted:
        raise RuntimeError(f"No threshold gives {wanted} in the mean; the nearest gives {found:.3f}.")
    return middle


def scale(rows: Tensor) -> float:
    """What sae-lens multiplies rows with before training: their mean norm becomes the root of the width."""
    return float(rows.shape[1] ** 0.5 / torch.linalg.vector_norm(rows, dim=1).mean())


def batches(rows: Tensor, seed: int) -> Iterator[Tensor]:
    """Batches of rows for ever, in another order in each pass."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for part in torch.split(order[: len(rows) // BATCH * BATCH], BATCH):
            yield rows[part]
