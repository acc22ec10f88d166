"""The costs of one run: a dictionary of a model's activations, on one machine or on many workers."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from itda.building.request import default_atoms
from itda.errors import OptionError
from itda.models.tokenizing import CANONICAL_BATCH
from itda.options import above_zero, whole
from itda.planning import costs
from itda.planning.costs import CONSTANTS
from itda.planning.machines import Machine, machine
from itda.planning.models import ModelSize
from itda.pursuit import Coding, default_steps
from itda.shown import Shown

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}
_LIBRARIES = 0.48e9  # of a process that has its libraries and kernels, and has done nothing else yet
_SOURCE_BYTES = 54  # of a row in a store: where it comes from, and its share of the text
_ATOM_BYTES = 60  # of an atom in a dictionary: where it comes from; besides the text of the window it was read in
_WINDOW_BYTES = 3.2  # of a token of such a text
_DOCUMENT_BYTES = 35  # of an id of a document that a dictionary was built from
_TOKEN_MEAN_BYTES = 16  # besides the mean itself
_GAP = 0.3  # of a block of rows
_BETWEEN = 8192  # rows after which a builder gives back what the allocator has left in gaps
_TEXT_BYTES = 4.5  # of a token
_SAMPLE, _MERGE_SAMPLE, _OVERSAMPLED = 8192, 32_768, 2  # rows by which a builder and a merge measure; atoms of parts
_TOGETHER = 1024
_SHARDS = 8  # of a run on workers, if nobody says


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan(Shown):
    """What a run will cost."""

    asked: Mapping[str, Any]
    seconds: Mapping[str, float]
    """By step, on the worker that takes longest; they follow one another."""
    memory: Mapping[str, float]
    """Bytes of one worker, by what they are for."""
    merge_memory: float
    """Bytes where the parts are merged; 0 without workers."""
    disk: Mapping[str, float]
    """Bytes that are written and stay, or that go when the run has ended."""
    network: Mapping[str, float]
    """Bytes between the workers and what they share, of all workers."""
    notes: tuple[str, ...]

    @property
    def total_seconds(self) -> float:
        """Of all steps."""
        return sum(self.seconds.values())

    @property
    def worker_memory(self) -> float:
        """Bytes of one worker."""
        return sum(self.memory.values())

    def to_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return {
            "asked": dict(self.asked),
            "seconds": dict(self.seconds),
            "total_seconds": self.total_seconds,
            "memory": dict(self.memory),
            "worker_memory": self.worker_memory,
            "merge_memory": self.merge_memory,
            "disk": dict(self.disk),
            "network": dict(self.network),
            "notes": list(self.notes),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        asked = self.asked
        yield Text(
            f"{asked['atoms']:,} atoms from {asked['tokens']:,} tokens at layer {asked['layer']} of {asked['model']} "
            f"({asked['parameters'] / 1e9:,.2f} billion parameters), {asked['how']}",
            style="bold",
        )
        table = Table("", "", "of which", show_edge=False, pad_edge=False)
        for name, total, parts, written in (
            ("time", self.total_seconds, self.seconds, duration),
            ("memory of a worker", self.worker_memory, self.memory, size),
            ("memory of the merge", self.merge_memory, {}, size),
            ("disk", sum(self.disk.values()), self.disk, size),
            ("network", sum(self.network.values()), self.network, size),
        ):
            if total:
                table.add_row(
                    name, written(total), "\n".join(f"{written(part)} {what}" for what, part in parts.items())
                )
        yield Group(table, *(Text(f"note: {note}") for note in self.notes))


def plan(
    model: str | Path,
    *,
    tokens: int,
    atoms: int | None = None,
    steps: int | None = None,
    layer: int | None = None,
    window: int | None = None,
    document_tokens: float = 500.0,
    corpus_tokens: float | None = None,
    on: str | Machine = "here",
    shards: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    store: str | None = None,
    from_disk: bool = False,
) -> Plan:
    """What it will cost to build a dictionary.

    Args:
        model: a name or folder, or a config.json; no weights are read.
        tokens: how many rows.
        atoms: as a build has them by default: 8 times the width, at most a quarter of the rows.
        steps: of the pursuit; as a build has them by default.
        layer: whose output is decomposed; the middle one by default.
        window: tokens that are read at once; as a capture has them by default.
        document_tokens: the mean length of a document: short ones leave windows half empty.
        corpus_tokens: how many tokens the text has; as many as are taken by default. Rows are spread over all
            documents, so that few rows of a large text take nearly as many passes as many.
        on: a name of `itda.planning.MACHINES`, or "here": this machine, which is measured in a few seconds.
        shards, workers: through Ray, as for `itda.scale`.
        threads: of each worker; all there are without workers, otherwise 1.
        store: keep all activations as `float16`, `bfloat16` or `float32` first.
        from_disk: run the model layer by layer.
    Raises: ModelError; OptionError.
    """
    tokens = whole("tokens", tokens)
    of, spread = ModelSize.of(model), shards is not None or workers is not None
    shards, workers, threads = (
        None if value is None else whole(name, value)
        for name, value in (("shards", shards), ("workers", workers), ("threads", threads))
    )
    where = on if isinstance(on, Machine) else machine(on, threads=threads or (1 if spread else None))
    shards = (shards or _SHARDS) if spread else 1
    if workers is not None and workers > shards:
        raise OptionError(
            f"{shards} shards keep at most {shards} workers busy. Got workers={workers}; ask for as many."
        )
    # Of this machine there is one; of those of a cluster as many as there is work for
    most = max(1, (os.cpu_count() or 1) // where.threads) if where.measured else shards
    workers = (workers or min(shards, most)) if spread else 1
    layer = of.depth // 2 if layer is None else layer
    layer = whole("layer", layer, least=0)
    if layer >= of.depth:
        raise OptionError(f"{of.name} has layers 0 to {of.depth - 1}. Got layer={layer}.")
    if store is not None and store not in _BYTES:
        raise OptionError(f"store must be one of {', '.join(_BYTES)}. Got {store!r} instead.")
    text = max(float(tokens), above_zero("corpus_tokens", 1.0 if corpus_tokens is None else corpus_tokens))
    document_tokens = above_zero("document_tokens", document_tokens)
    if document_tokens < 1:
        raise OptionError(f"document_tokens must be a number of at least 1. Got {document_tokens!r} instead.")
    window = min(of.positions, 128) if window is None else window
    window = whole("window", window)
    if window > of.positions:
        raise OptionError(f"{of.name} takes at most {of.positions:,} tokens at once. Got window={window:,}.")
    steps = default_steps(of.width) if steps is None else steps
    steps = whole("steps", steps)
    atoms = default_atoms(of.width, tokens, Coding(steps=steps)) if atoms is None else atoms
    atoms = whole("atoms", atoms)
    if not steps <= atoms <= tokens:
        raise OptionError(f"atoms must be from {steps} (steps) to {tokens:,} (tokens). Got atoms={atoms:,}.")
    notes = []
    if not where.measured:
        notes.append(f"the rates of {where.name} are from data sheets, not measured")
    kept = 4 if where.measured else _BYTES.get(of.dtype, 2)
    if of.parameters * kept > where.memory and not from_disk:
        notes.append(f"the weights do not fit into {size(where.memory)}: run it from disk, or on more GPUs")
    rounded = "bfloat16" in (store, None if where.measured else of.dtype)
    run = _Run(
        of, where, tokens / shards, text / shards, atoms, steps, layer + 1, window, document_tokens, kept,
        2 if rounded else 4, shards, workers,
    )  # fmt: skip
    together = workers * sum(run.memory(from_disk=from_disk).values())
    if where.measured and together > where.memory:
        notes.append(
            f"{workers} workers need {size(together)} together, and this machine has {size(where.memory)} left"
        )
    return Plan(
        asked={
            "model": of.name, "parameters": of.parameters, "layer": layer, "tokens": tokens, "atoms": atoms,
            "steps": steps, "window": window, "document_tokens": document_tokens, "corpus_tokens": text,
            "shards": shards, "workers": workers, "machine": where.name, "store": store, "from_disk": from_disk,
            "how": f"{workers:,} workers on {shards:,} shards, each {where.name}" if spread else f"on {where.name}",
        },
        seconds=run.seconds(spread=spread, store=store, from_disk=from_disk),
        memory=run.memory(from_disk=from_disk),
        merge_memory=run.merge_memory if shards > 1 else 0.0,
        disk=run.disk(store=store, from_disk=from_disk),
        network=run.network(store=store, from_disk=from_disk) if spread else {},
        notes=tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """What is known of a run, and the costs that follow."""

    model: ModelSize
    machine: Machine
    rows: float
    """Of one part."""
    text: float
    """Tokens that one part has."""
    atoms: int
    steps: int
    layers: int
    window: int
    document: float
    weight_bytes: int
    row_bytes: int
    """Of an activation that is kept to build from."""
    shards: int
    workers: int

    @property
    def _part_atoms(self) -> int:
        return self.atoms if self.shards == 1 else max(self.steps, math.ceil(_OVERSAMPLED * self.atoms / self.shards))

    @property
    def _pool(self) -> float:
        return costs.pool_rows(self.rows, self._part_atoms)

    @property
    def _passes(self) -> float:
        return costs.windows(self.rows, self.text, self.window, self.document) / CANONICAL_BATCH

    @property
    def _hidden_bytes(self) -> float:
        return self._passes * CANONICAL_BATCH * self.window * self.model.width * self.weight_bytes

    @property
    def _layers_bytes(self) -> float:
        return self.layers * self.model.layer_parameters * self.weight_bytes

    def _pass_seconds(self) -> float:
        if self.machine.measured:
            tried = self.model.pass_seconds(self.layers, self.window, self.machine.threads)
            if tried is not None:
                return tried
        tokens = CANONICAL_BATCH * self.window
        return tokens * self.model.flops(self.layers, self.window) / self.machine.forward

    def seconds(self, *, spread: bool, store: str | None, from_disk: bool) -> dict[str, float]:
        """By step, on the worker that takes longest."""
        rounds, width = math.ceil(self.shards / self.workers), self.model.width
        weights = self._layers_bytes * rounds if from_disk else self.model.parameters * self.weight_bytes
        link = self.machine.network if spread else self.machine.disk
        # A build from a store is a second command, which loads no model
        commands = 1.5 if store else 1.0
        start = commands * CONSTANTS.start + spread * CONSTANTS.workers + from_disk * CONSTANTS.disk
        found = {"start": start + weights / link}
        found["text"] = rounds * (self.rows + self.text * (1.5 if spread else 1.0)) * CONSTANTS.token
        if spread:  # every part looks through the whole text for its own
            found["text"] += rounds * 3 * self.shards * self.text * _TEXT_BYTES * CONSTANTS.byte
        found["model"] = (rounds * self._passes + costs.CALIBRATION) * self._pass_seconds()
        if from_disk:
            records = rounds * self.layers * self._passes * CONSTANTS.record
            found["hidden states"] = records + rounds * 2 * self.layers * self._hidden_bytes / self.machine.disk
        if store:
            found["store"] = rounds * self.rows * width * _BYTES[store] * 2 / link
        terms = costs.build_terms(int(self.rows), width, self._part_atoms, self.steps, self.machine)
        found["build"] = rounds * costs.seconds(terms)
        if self.shards > 1:
            sample = min(_MERGE_SAMPLE, self.shards * min(self.rows, _SAMPLE))
            candidates = self.shards * self._part_atoms
            found["merge"] = sum(
                costs.seconds(costs.pursuit_terms(int(sample), width, count, self.steps, self.machine))
                for count in (candidates, self.atoms)
            )
            threshold = costs.threshold_terms(int(sample), width, self.atoms, self.steps, self.machine)
            found["merge"] += costs.seconds(threshold)
        return found

    def memory(self, *, from_disk: bool) -> dict[str, float]:
        """Bytes of a worker."""
        model, atoms = self.model, self._part_atoms
        weights = model.layer_parameters if from_disk else model.parameters
        if from_disk:
            weights += model.vocabulary * model.width
        tokens = min(model.vocabulary, self.rows)
        return {
            "libraries": _LIBRARIES,
            "weights": weights * self.weight_bytes,
            "passes": 12 * CANONICAL_BATCH * self.window * model.width * 4,
            "dictionary": atoms * (4 * model.width + 2 * atoms + _ATOM_BYTES + 4 * _TOGETHER),
            "token means": tokens * model.width * 8,
            # Kept as the model gave them, and once more to work on
            "rows": (self._pool * (self.row_bytes + 4) + 12 * _TOGETHER * 4) * model.width,
            # A gap for every atom that is kept, as large as a block of rows, until they are given back
            "gaps": min(1.0, _BETWEEN / self.rows) * atoms * _TOGETHER * model.width * 4 * _GAP,
        }

    @property
    def merge_memory(self) -> float:
        """Bytes where the parts are merged."""
        candidates, width = self.shards * self._part_atoms, self.model.width
        means = min(self.model.vocabulary, self.rows * self.shards) * width * (8 + 2)
        one = min(self.rows, _SAMPLE) * width * 4
        return _LIBRARIES + candidates * (3 * 4 * width + 2 * candidates) + 3 * _MERGE_SAMPLE * width * 4 + means + one

    def _dictionary_bytes(self, atoms: int, rows: float) -> float:
        tokens = min(self.model.vocabulary, rows)
        means = tokens * (2 * self.model.width + _TOKEN_MEAN_BYTES)
        return (
            atoms * (4 * self.model.width + _ATOM_BYTES)
            + means
            + self.text * rows / self.rows / self.document * _DOCUMENT_BYTES
        )

    def disk(self, *, store: str | None, from_disk: bool) -> dict[str, float]:
        """Bytes that are written."""
        width, rows = self.model.width, self.rows * self.shards
        found = {"dictionary": self._dictionary_bytes(self.atoms, rows)}
        kept = self._pool * (width * self.row_bytes + _SOURCE_BYTES)
        found["checkpoints, until it ends"] = self.workers * (kept + min(self.model.vocabulary, self.rows) * width * 8)
        if self.shards > 1:
            sample = min(self.rows, _SAMPLE) * width * 4
            part = self._dictionary_bytes(self._part_atoms, self.rows) + sample
            found["parts, until it ends"] = self.shards * part
        if store:
            found["store"] = rows * (width * _BYTES[store] + _SOURCE_BYTES)
        if from_disk:
            found["hidden states, until it ends"] = 2 * self.workers * self._hidden_bytes
        return found

    def network(self, *, store: str | None, from_disk: bool) -> dict[str, float]:
        """Bytes of all workers together."""
        rounds = math.ceil(self.shards / self.workers)
        weights = self._layers_bytes * rounds if from_disk else self.model.parameters * self.weight_bytes
        found = {"weights": self.workers * weights, "text": 3 * self.shards * self.shards * self.text * _TEXT_BYTES}
        disk = self.disk(store=store, from_disk=False)
        found["parts"] = 2 * disk.get("parts, until it ends", 0.0)
        if store:
            found["store"] = 2 * disk["store"]
        return found


def duration(seconds: float) -> str:
    """Time as a person reads it."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit, length in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count / 1e3:.3g} kB" if count else "none"
