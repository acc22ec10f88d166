"""What it costs a model at one token to do without its part along an atom."""

import torch
from torch import Tensor

from itda.compare.places import readings
from itda.compare.transplants import Transplant
from itda.data.activations import Activations
from itda.data.corpus import Corpus
from itda.models.loading import Model
from itda.models.losses import next_token_loss, predict


def ablation_losses(
    there: Transplant, model: Model, atoms: Tensor, places: Tensor, held_out: Activations, corpus: Corpus, *, seed: int
) -> Tensor:
    """Rise of the loss of the next token where an activation is left without its part along an atom, nats.

    Each token is changed in a pass of its own: nothing else in the window is touched. Beside it the same length is
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
    others = torch.randint(len(there), (len(places),), generator=torch.Generator().manual_seed(seed))
    assert held_out.provenance is not None
    for reading in readings(model, held_out.sources.select(places), corpus, held_out.provenance):
        lengths = torch.tensor([len(stretch.part) for stretch in reading.stretches])
        usable = (place_of[atoms[reading.places]] >= 0) & (reading.tokens + 1 < lengths[reading.sequences])
        asked, sequences, tokens = (column[usable] for column in (reading.places, reading.sequences, reading.tokens))
        if not len(asked):
            continue
        clean = next_token_loss(predict(model, reading.inputs), reading.inputs["input_ids"])
        for turn in _turns(sequences):
            index, sequence, token = asked[turn], sequences[turn], tokens[turn]
            own = there.atoms[place_of[atoms[index]]]
            for row, direction in enumerate((own, there.atoms[others[index]])):

                def change(
                    values: Tensor, own: Tensor = own, direction: Tensor = direction, sequence: Tensor = sequence,
                    token: Tensor = token,
                ) -> Tensor:  # fmt: skip
                    rows = values[sequence, token].float().cpu() - there.mean
                    amount = (rows * own).sum(1, keepdim=True).clamp_min(0)
                    changed = values.clone()
                    changed[sequence, token] -= (amount * direction).to(values)
                    return changed

                loss = next_token_loss(predict(model, reading.inputs, where, change), reading.inputs["input_ids"])
                found[row, index] = (loss - clean)[sequence, token].double().cpu()
    return found


def _turns(sequences: Tensor) -> list[Tensor]:
    """Indices such that in each group every sequence comes once at most."""
    seen: dict[int, int] = {}
    turns: list[list[int]] = []
    for index, sequence in enumerate(sequences.tolist()):
        turn = seen.get(sequence, 0)
        seen[sequence] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(index)
    return [torch.tensor(turn) for turn in turns]
