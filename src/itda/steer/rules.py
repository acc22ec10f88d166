"""When to steer, as rules over concepts: sets of atoms under a name, and what follows from which of them hold.

rules = steer.Rules(dictionary, [joy, sorrow], ["cheerful if joy and not sorrow", "stop if not cheerful"])
rules.read(model, ["..."])                                   # what holds of a text, and by which rules
vector.apply(model, when=rules.gate(model, "cheerful"))
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from itda.data import files
from itda.data.dictionary import Dictionary, checked_dictionary
from itda.errors import FormatError, MismatchError, OptionError
from itda.evaluation.pooling import Pooled
from itda.explaining import place_of
from itda.models.loading import Model
from itda.steer.applying import TextGate
from itda.steer.concepts import Concept, checked_name, text_features

_LONGEST = 1000
"""Characters of a condition: deeper ones than fit here would not be read by anybody."""


@dataclass(frozen=True)
class Rule:
    """What follows, and from what."""

    conclusion: str
    condition: str
    """Concepts and conclusions of other rules with `and`, `or`, `not` and brackets."""

    def __post_init__(self) -> None:
        checked_name(self.conclusion)
        self.names  # noqa: B018  # refuses what cannot be read

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "CONCLUSION if CONDITION".

        Raises: OptionError for anything else.
        """
        conclusion, found, condition = text.partition(" if ") if isinstance(text, str) else ("", "", "")
        if not found:
            raise OptionError(
                f'A rule reads "conclusion if condition", as in "calm if not (anger or fear)". Got {text!r}.'
            )
        return cls(conclusion.strip(), condition.strip())

    @property
    def names(self) -> frozenset[str]:
        """What the condition asks for."""
        return frozenset(node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name))

    def holds(self, known: Mapping[str, bool]) -> bool:
        """Whether the condition is met."""
        return _holds(self._tree, known)

    @property
    def _tree(self) -> ast.expr:
        if not isinstance(self.condition, str) or len(self.condition) > _LONGEST:
            raise OptionError(f"A condition is a text of at most {_LONGEST} characters. Got {self.condition!r:.60}.")
        try:
            tree = ast.parse(self.condition, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise OptionError(
                f"The condition {self.condition[:80]!r} cannot be read: use and, or, not, brackets."
            ) from error
        known = ast.Name | ast.BoolOp | ast.And | ast.Or | ast.Not | ast.Load
        for node in ast.walk(tree):
            if not isinstance(node, known) and not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
                raise OptionError(
                    f"The condition {self.condition[:80]!r} has more than names, and, or, not and brackets in it."
                )
        return tree

    def __str__(self) -> str:
        return f"{self.conclusion} if {self.condition}"


@dataclass(frozen=True)
class Reading:
    """What holds of one text."""

    scores: Mapping[str, float]
    """Concept -> how much of it there is, less its threshold."""
    holds: frozenset[str]
    """Concepts and conclusions."""
    fired: tuple[Rule, ...]
    """Rules whose condition was met, in the order in which they were looked at."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.fired)) or "no rule fired"


class Rules:
    """Concepts of one dictionary and rules over them.

    What a rule concludes can be a condition of others, however long the chain; nothing may depend on itself.

    Args:
        dictionary: whose atoms the concepts are.
        concepts: with different names.
        rules: as text, or made; several with one conclusion are alternatives.
    Raises: OptionError for a rule that names nothing known, concludes a concept, or depends on itself.
    """

    def __init__(self, dictionary: Dictionary, concepts: Sequence[Concept], rules: Sequence[str | Rule]) -> None:
        self.dictionary = checked_dictionary(dictionary)
        if isinstance(rules, str) or not all(isinstance(one, Sequence) for one in (concepts, rules)):
            raise OptionError("Rules takes a list of concepts and a list of rules.")
        if not all(isinstance(concept, Concept) for concept in concepts):
            raise OptionError("Rules takes concepts as steer.Concept.fit makes them.")
        self.concepts = {concept.name: concept for concept in concepts}
        if len(self.concepts) < len(concepts):
            raise OptionError("Two concepts have the same name. Give each its own.")
        for concept in concepts:
            if max(concept.atoms) >= len(dictionary):
                raise OptionError(
                    f"The concept {concept.name!r} has atom {max(concept.atoms)}, and the dictionary {len(dictionary)}."
                )
        given = [rule if isinstance(rule, Rule) else Rule.parse(rule) for rule in rules]
        conclusions = {rule.conclusion for rule in given}
        for rule in given:
            if rule.conclusion in self.concepts:
                raise OptionError(f"The rule {str(rule)!r} concludes a concept, which atoms decide. Name it otherwise.")
            unknown = sorted(rule.names - conclusions - set(self.concepts))
            if unknown:
                raise OptionError(
                    f"The rule {str(rule)!r} names {unknown[0]!r}, which is no concept and no rule's conclusion. "
                    f"There are {', '.join([*self.concepts, *sorted(conclusions)])}."
                )
        needs: dict[str, set[str]] = {}
        for rule in given:
            needs.setdefault(rule.conclusion, set()).update(rule.names)
        try:
            order = {name: place for place, name in enumerate(TopologicalSorter(needs).static_order())}
        except CycleError as error:
            raise OptionError(f"These rules go in a circle: {' needs '.join(reversed(error.args[1]))}.") from error
        self.rules = tuple(sorted(given, key=lambda rule: order[rule.conclusion]))

    def read(self, model: Model, texts: Sequence[str], *, progress: bool = True) -> list[Reading]:
        """What holds of some texts.

        Raises: CorpusError; MismatchError for another model than the dictionary's.
        """
        return self.infer(text_features(self.dictionary, model, texts, progress=progress))

    def infer(self, features: Any) -> list[Reading]:
        """What holds of texts whose features (n, A) `text_features` made."""
        scores = {name: one.scores(features) - one.threshold for name, one in self.concepts.items()}
        found = []
        for text in range(features.shape[0]):
            known = {name: bool(values[text] > 0) for name, values in scores.items()}
            fired = []
            for rule in self.rules:
                met = rule.holds(known)
                known[rule.conclusion] = known.get(rule.conclusion, False) or met
                fired += [rule] if met else []
            own = {name: float(values[text]) for name, values in scores.items()}
            found.append(Reading(own, frozenset(name for name, holds in known.items() if holds), tuple(fired)))
        return found

    def gate(self, model: Model, name: str) -> "RuleGate":
        """Steer the texts of which a concept or conclusion holds.

        Raises: OptionError for a name that is neither.
        """
        names = [*self.concepts, *(rule.conclusion for rule in self.rules)]
        if name not in names:
            raise OptionError(f"There is no {name!r} in these rules. There are {', '.join(dict.fromkeys(names))}.")
        return RuleGate(self, model, name)

    def save(self, path: str | Path) -> Path:
        """Write concepts and rules as JSON, with which dictionary they are of.

        Raises: OutputError.
        """
        facts = {
            "format": "itda.rules", "dictionary": self.dictionary.fingerprint,
            "concepts": [
                {"name": one.name, "threshold": one.threshold,
                 "atoms": [[atom, weight, self.dictionary.describe(atom)] for atom, weight in one.atoms.items()]}
                for one in self.concepts.values()
            ],
            "rules": [str(rule) for rule in self.rules],
        }  # fmt: skip
        files.check_ours(Path(path), "rules")
        files.write_text(Path(path), json.dumps(facts, indent=1, allow_nan=False) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path, dictionary: Dictionary) -> Self:
        """Read what `save` wrote.

        Raises: FormatError; MismatchError for another dictionary.
        """
        checked_dictionary(dictionary)
        where = Path(path)
        with files.parsing(where):
            facts = json.loads(files.read_bytes(where))
            if facts["format"] != "itda.rules":
                raise FormatError(f"{where} holds {facts['format']!r}, not rules. Check the path.")
            concepts = [
                Concept(
                    name=one["name"],
                    threshold=one["threshold"],
                    atoms={atom: weight for atom, weight, _ in one["atoms"]},
                )
                for one in facts["concepts"]
            ]
            rules, owner = facts["rules"], facts["dictionary"]
            if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
                raise ValueError("its rules are no list of texts")
        if owner != dictionary.fingerprint:
            raise MismatchError(
                f"{where} has rules over the atoms of another dictionary. Give the one they were made with."
            )
        try:
            return cls(dictionary, concepts, rules)
        except OptionError as error:
            raise FormatError(f"{where} is not what itda writes: {error}") from error


class RuleGate(TextGate):
    """Open for texts of which something holds, closed for others."""

    def __init__(self, rules: Rules, model: Model, name: str) -> None:
        self._rules, self._name = rules, name
        self.reads = (place_of(rules.dictionary, model, None, True),)
        self.readings: list[Reading] = []
        """What held of each text of the last batch, and by which rules."""

    def check(self, model: Model, sites: Sequence[str]) -> None:
        """Refuse another model than the dictionary's.

        Raises: MismatchError.
        """
        place_of(self._rules.dictionary, model, None, True)

    def decide(self, states: Mapping[str, Tensor], mask: Tensor, special: Tensor) -> Tensor:
        """1 for each text of which it holds, 0 for others, float32 (B,)."""
        dictionary = self._rules.dictionary
        captured = dictionary.provenance.capture if dictionary.provenance else {}
        keep, rows = mask.cpu(), states[self.reads[0]].float().cpu()
        if captured.get("special_tokens") == "drop":
            keep = keep & ~special.cpu()
        if captured.get("sinks") == "drop" and captured.get("sink_norm") is not None:
            keep = keep & (torch.linalg.vector_norm(rows, dim=2) <= captured["sink_norm"])
        owners = torch.nonzero(keep)[:, 0]
        pooled = Pooled(len(keep), len(dictionary))
        pooled.add(owners, dictionary.encode(rows[keep]))
        features = pooled.means(np.bincount(owners.numpy(), minlength=len(keep)))
        self.readings = self._rules.infer(features.tocsr())
        return torch.tensor([float(self._name in reading.holds) for reading in self.readings])


def _holds(tree: ast.expr, known: Mapping[str, bool]) -> bool:
    if isinstance(tree, ast.Name):
        return known[tree.id]
    if isinstance(tree, ast.UnaryOp):
        return not _holds(tree.operand, known)
    assert isinstance(tree, ast.BoolOp)
    parts = (_holds(part, known) for part in tree.values)
    return all(parts) if isinstance(tree.op, ast.And) else any(parts)
