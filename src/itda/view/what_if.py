"""A text as atoms, and what the model predicts with some of them changed: what the explain page asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itda.capturing import window_length
from itda.data.corpus import Corpus
from itda.data.dictionary import Dictionary
from itda.errors import OptionError
from itda.evaluation.effects import ablate
from itda.explaining import ExplainedToken, Piece, explain, place_of
from itda.html import visible, word
from itda.models import tokenizing
from itda.models.loading import Model
from itda.models.losses import predict
from itda.steer import SteeringVector
from itda.view.steered import Amount, likeliest, steered

_BEFORE, _AFTER = 60, 24
_MISSED = (0.1, 0.25, 0.5, 0.75)  # shares that are not explained, from which on a token is marked more strongly


class WhatIf:
    """One model and one dictionary, asked about a text at a time.

    Args:
        dictionary: its atoms.
        model: the model it was built on.
        site: where, for a dictionary that was built from a bare array.
        check_model: refuse a model with other weights than the dictionary's.
    Raises: MismatchError, OptionError.
    """

    def __init__(
        self, dictionary: Dictionary, model: Model, *, site: str | None = None, check_model: bool = True
    ) -> None:
        self.dictionary, self.model = dictionary, model
        self.place = model.site(place_of(dictionary, model, site, check_model))
        self._site, self._check_model = site, check_model

    def explain(self, text: str) -> dict[str, Any]:
        """A text token by token: its atoms, and what comes next with and without the reconstruction.

        Only the tokens that the model reads at once are explained; `cut` says whether there were more.

        Raises: CorpusError for a text without tokens.
        """
        explained = explain(self.dictionary, self.model, text, site=self._site, check_model=False)
        inputs, length = self._inputs(explained.text)
        tokens = [self._token(token) for token in explained.tokens[:length]]
        found = {
            "text": explained.text, "tokens": tokens, "unexplained": explained.unexplained,
            "cut": len(explained.tokens) > length, "predicts": self.model.predicts,
        }  # fmt: skip
        if self.model.predicts:
            clean = predict(self.model, inputs)[0]
            rebuilt = self._predict(inputs, self._rebuilt(explained.tokens[:length]))
            kl = (clean.exp() * (clean - rebuilt)).sum(1)
            for place, token in enumerate(tokens):
                token |= {
                    "clean": likeliest(self.model, clean[place]),
                    "rebuilt": likeliest(self.model, rebuilt[place]),
                    "kl": float(kl[place]),
                }
        return found

    def change(self, text: str, token: int, scales: Mapping[int, float]) -> dict[str, Any]:
        """What the model predicts at a token when atoms there have other coefficients, and all else stays.

        Args:
            text: any.
            token: which of its tokens.
            scales: by atom of that token's code, times how much its coefficient is taken; 0 leaves it out.
        Raises: OptionError for a token or an atom that is not there, or where nothing is predicted.
        """
        if not self.model.predicts:
            raise OptionError(f"{self.model.id} predicts no next token, so no prediction can change.")
        explained = explain(self.dictionary, self.model, text, site=self._site, check_model=False)
        inputs, length = self._inputs(explained.text)
        if not 0 <= token < min(length, len(explained.tokens)):
            raise OptionError(f"There are tokens 0 to {min(length, len(explained.tokens)) - 1}. Got {token}.")
        amounts = {piece.atom: piece.coefficient for piece in explained.tokens[token].pieces}
        unknown = [atom for atom in scales if atom not in amounts]
        if unknown:
            raise OptionError(f"Token {token} does not use atom {unknown[0]}; it uses {sorted(amounts)}.")
        by = torch.zeros(self.dictionary.width)
        for atom, scale in scales.items():
            by += (scale - 1) * amounts[atom] * self.dictionary.atoms[atom]

        def moved(values: Tensor) -> Tensor:
            changed = values.clone()
            changed[0, token] += by.to(values)
            return changed

        clean, changed = predict(self.model, inputs)[0], predict(self.model, inputs, self.place, moved)[0]
        kl = (clean.exp() * (clean - changed)).sum(1)
        return {
            "changed": likeliest(self.model, changed[token]), "kl": float(kl[token]),
            "kl_later": float(kl[token + 1 :].mean()) if token + 1 < len(kl) else None,
        }  # fmt: skip

    def effect(self, atom: int, contexts: Sequence[str]) -> dict[str, Any]:
        """What leaving out an atom changes at the output, in texts that use it.

        Raises: OptionError if none does, or where nothing is predicted.
        """
        if not contexts:
            raise OptionError(f"No text of these pages uses atom {atom}, so there is nothing to leave it out of.")
        found = ablate(
            self.dictionary, self.model, Corpus.from_texts(contexts), atoms=[atom], tokens=None, site=self._site,
            check_model=False, progress=False,
        ).atoms  # fmt: skip
        if not found:
            raise OptionError(f"Read by themselves, these texts do not use atom {atom}. Nothing can be left out.")
        effect = asdict(found[0])
        for side in ("promotes", "suppresses"):
            effect[side] = [(word(found, 60), value) for found, value in effect[side]]
        return effect

    def steer(
        self, text: str, vectors: Sequence[tuple[Path, float]], atoms: Mapping[int, float], tokens: str, count: int
    ) -> dict[str, Any]:
        """A text that the model goes on with, with and without vectors and atoms; see `itda.view.steered`.

        Args:
            vectors: files of steering vectors, and how strongly each is added.
            atoms: by atom, how strongly its direction is added.
        Raises: as there; OptionError for an atom that is not there.
        """
        if self.dictionary.provenance is None:
            raise OptionError("This dictionary was built from a bare array, so its atoms belong to no model.")
        amounts = [Amount(SteeringVector.load(path), strength) for path, strength in vectors]
        amounts += [Amount(SteeringVector.from_atom(self.dictionary, atom), one) for atom, one in atoms.items()]
        return steered(self.model, text, amounts, tokens=tokens, count=count, check_model=self._check_model)

    def _inputs(self, text: str) -> tuple[dict[str, Tensor], int]:
        """The first window of a text, as the dictionary's capture had windows, and how many tokens it has."""
        captured: Any = self.dictionary.provenance.capture if self.dictionary.provenance else {}
        length = window_length(self.model, captured)
        part = tokenizing.windows(self.model, [text], length=length, bos=captured.get("bos"))[0][0]
        return tokenizing.batch(self.model, [part], length=None), len(part)

    def _rebuilt(self, tokens: Sequence[ExplainedToken]) -> list[Tensor | None]:
        rows: list[Tensor | None] = []
        for token in tokens:
            row = None
            if token.left_out is None:
                row = self.dictionary.mean.clone()
                for piece in token.pieces:
                    row += piece.coefficient * self.dictionary.atoms[piece.atom]
            rows.append(row)
        return rows

    def _predict(self, inputs: dict[str, Tensor], rows: Sequence[Tensor | None]) -> Tensor:
        def replaced(values: Tensor) -> Tensor:
            changed = values.clone()
            for place, row in enumerate(rows):
                if row is not None:
                    changed[0, place] = row.to(values)
            return changed

        return predict(self.model, inputs, self.place, replaced)[0]

    def _token(self, token: ExplainedToken) -> dict[str, Any]:
        missed = 0 if token.unexplained is None else sum(token.unexplained >= share for share in _MISSED)
        return {
            "token": visible(token.token, 60), "unexplained": token.unexplained, "left_out": token.left_out,
            "missed": missed, "pieces": [_piece(piece) for piece in token.pieces],
        }  # fmt: skip


def _piece(piece: Piece) -> dict[str, Any]:
    """An atom as stretches of text, each with what it is."""
    parts: list[tuple[str, str]] = [("text", piece.heads)] if piece.heads else []
    if piece.by_example:
        parts.append(("text", "e.g. "))
    sources = [(f"{part.weight:.0%} ", part.source) for part in piece.mixture] or [("", piece.source)]
    for place, (weight, source) in enumerate(sources):
        before, token, after = source.quoted(_BEFORE, _AFTER)
        if source.document is None:
            token = f"row {source.row}"
        parts += [("text", f"{' | ' if place else ''}{weight}{before}"), ("token", visible(token, 60)), ("text", after)]
    return {"atom": piece.atom, "coefficient": piece.coefficient, "parts": parts}
