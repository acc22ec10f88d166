"""What it costs a model at one token to do without its part along an atom."""

import torch
from torch import Tensor

from itda.compare.places import readings
from itda.compare.transplants import Transplant
from itda.data.activations import Activations
from itda.data.corpus import Corpus
from itda.models.hooks import Inputs
from itda.models.loading import Model
from itda.models.losses import next_token_loss, predict
from itda.models.sites import Site
from itda.randomness import seeded


def ablation_losses(
    there: Transplant, model: Model, atoms: Tensor, places: Tensor, held_out: Activations, corpus: Corpus, *, seed: int
) -> Tensor:
    """Rise of the loss of the next token where an activation is left without its part along an atom, nats.

    Each token is changed in a sequence of its own: nothing else in its window is touched. Beside it the same length is
    taken off along another atom, drawn at random: what any change of that size costs.

    Args:
        there: the atoms as the model has them.
        model: one that predicts.
        atoms: int64 (n,), which atom of the original is left out at each place.
        places: int64 (n,), which rows of `held_out`.
        held_out: where places are named.
        corpus: has their documents.
        seed: of the other atoms.
    Returns: float64 (2, n), of the atom and of another one; NaN where the model does not have the atom, or no token
        follows.
    """
    where = model.site(there.site)
    found = torch.full((2, len(places)), float("nan"), dtype=torch.float64)
    place_of = torch.full((len(there.original),), -1)
    place_of[there.kept] = torch.arange(len(there))
    others = torch.randint(len(there), (len(places),), generator=seeded(seed))
    assert held_out.provenance is not None
    for reading in readings(model, held_out.sources.select(places), corpus, held_out.provenance):
        lengths = torch.tensor([len(stretch.part) for stretch in reading.stretches])
        usable = (place_of[atoms[reading.places]] >= 0) & (reading.tokens + 1 < lengths[reading.sequences])
        asked, sequences, tokens = (column[usable] for column in (reading.places, reading.sequences, reading.tokens))
        if not len(asked):
            continue
        clean = next_token_loss(predict(model, reading.inputs), reading.inputs["input_ids"])[sequences, tokens]
        own = there.atoms[place_of[atoms[asked]]]
        for row, directions in enumerate((own, there.atoms[others[asked]])):
            changed = [
                _loss_without(model, where, some, reading.inputs, there.mean)
                for some in zip(
                    *(torch.split(part, len(lengths)) for part in (sequences, tokens, own, directions)), strict=True
                )
            ]
            found[row, asked] = (torch.cat(changed) - clean).double().cpu()
    return found


def _loss_without(
    model: Model, where: Site, changes: tuple[Tensor, Tensor, Tensor, Tensor], inputs: Inputs, mean: Tensor
) -> Tensor:
    """Loss after each of n tokens, (n,), in a sequence of its own where as much as is along `own` is taken off.

    Args:
        changes: sequence and token of each, int64 (n,); `own` and what is taken off, float32 (n, D).
    """
    sequences, tokens, own, directions = changes
    rows = torch.arange(len(sequences))

    def change(values: Tensor) -> Tensor:
        centred = values[rows, tokens].float().cpu() - mean
        amount = (centred * own).sum(1, keepdim=True).clamp_min(0)
        changed = values.clone()
        changed[rows, tokens] -= (amount * directions).to(values)
        return changed

    chosen = {name: values[sequences.to(values.device)] for name, values in inputs.items()}
    return next_token_loss(predict(model, chosen, where, change), chosen["input_ids"])[rows, tokens]
