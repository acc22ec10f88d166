"""What each page says, as plain values: templates make markup of it, and programs get it as JSON."""

from typing import Any, NamedTuple

import numpy as np

from itda.html import visible, word
from itda.view import charts
from itda.view.records import Array, Records

CONTEXTS = 12  # of an atom, on either side
_TOGETHER = 8
_BEFORE, _AFTER = 240, 90  # characters around a token
_SNIPPETS = ((28, 12), (20, 8), (12, 5), (6, 3))  # characters of text around a token in the table
_TABLE_BYTES = 720_000  # of that text: a page of 16,384 atoms is to arrive in half a megabyte, in any script
_SHADES = 9
_LONGEST_TOKEN = 200
_BINS = 24


class Piece(NamedTuple):
    """A stretch of a context."""

    text: str
    shade: int
    """-9 to 9: how much of the atom the token has, in ninths of the most there is of it; 0 for none."""
    marked: bool
    """Whether it is the token that the context is about."""
    label: str
    """The coefficient, for those who point at it."""


class Context(NamedTuple):
    """A token that uses an atom, in its text."""

    coefficient: float
    document: str
    pieces: list[Piece]


def summary(records: Records) -> list[tuple[str, str]]:
    """What a dictionary is made of, line by line."""
    facts = records.facts
    provenance, build = facts.get("provenance"), facts["build"]
    made = {
        "activations": "real activations",
        "mixtures": "mixtures of real activations",
        "learned": "learned directions",
    }
    lines = [("atoms", f"{len(records):,} {made[facts['kind']]} of width {facts['width']:,}")]
    if provenance:
        lines += [
            ("model", provenance["model"]["id"]),
            ("site", provenance["site"]),
        ]
    if not build["rows"]:  # read from an autoencoder
        known = dict(lines)
        named = {name.replace("_", " "): str(value) for name, value in build["options"].items()}
        lines += [(name, value) for name, value in named.items() if name not in known]
    elif provenance:
        lines.append(("built from", f"{build['rows']:,} tokens of {provenance['corpus_name']}"))
    else:
        lines.append(("built from", f"{build['rows']:,} rows of a bare array"))
    coding = facts["coding"]
    steps = f"{coding['steps']} atoms a token" + (" in the mean" if coding.get("most") else "")
    lines += [
        ("method", build["method"]),
        ("coding", steps + (", nothing subtracted" if coding["nonnegative"] else ", signed")),
    ]
    if build["rows"] and build["unexplained"] is not None:
        lines.append(("unexplained when built", f"{build['unexplained']:.1%} of an activation, in the mean"))
    if len(records.tokens):
        used = int((records.counts > 0).sum())
        lines.append(
            ("pages made from", f"{len(records.tokens):,} tokens of {facts['text']}; {used:,} atoms are used there")
        )
    lines += [("note", note) for note in build["notes"]]
    return lines


def fidelity(records: Records) -> list[tuple[str, str, str]]:
    """Scores on held-out text with a word on each; empty if none were measured."""
    report = records.facts.get("report")
    if not report:
        return []
    scores, token = report["scores"], report["baselines"].get("token mean")
    rows = [
        ("FVU", scores["fvu"], "share of the variance that is missed"),
        ("residual FVU", scores["residual_fvu"], "the same of what the token alone does not say"),
        ("ΔCE, nats", scores["delta_ce"], "rise of the model's loss with the reconstruction in place"),
        ("CE score", scores["ce_score"], "1 for no rise, 0 for zeros in place"),
        ("KL, nats", scores["kl"], "divergence of its predictions"),
    ]
    shown = [(name, f"{value:.4f}", said) for name, value, said in rows if value is not None]
    if token and token["fvu"] is not None:
        shown.append(("FVU of the token mean", f"{token['fvu']:.4f}", "what the token alone gives, to compare with"))
    shown.append(("L0", f"{report['l0']:.1f}", f"atoms in a code; {report['tokens']:,} held-out tokens"))
    return shown


def dictionary_charts(records: Records) -> list[Any]:
    """How often atoms are used, and how much of the codes the largest carry."""
    if not len(records.tokens):
        return []
    shares = records.counts[records.counts > 0] / len(records.tokens)
    edges = np.linspace(np.log10(1 / len(records.tokens)), 0, _BINS + 1)
    counts, _ = np.histogram(np.log10(shares), bins=edges)
    carried = np.cumsum(np.sort(records.energies)[::-1])
    return [
        charts.bars(
            counts.tolist(), edges.tolist(), title="How often atoms are used", across="share of the tokens that use it",
            logarithmic=True,
        ),
        charts.curve(
            carried.tolist(), title="What the largest atoms carry", across="so many atoms, the largest first",
            up="share of the energy",
        ),
    ]  # fmt: skip


def table(records: Records) -> dict[str, Any]:
    """All atoms as columns, for the table and the map."""
    tokens = len(records.tokens)
    counts = records.counts
    return {
        "token": [word(records.token_of(atom), 40) for atom in range(len(records))],
        "text": _texts(records),
        "uses": counts.tolist(),
        "size": [round(float(size), 2) for size in records.sizes],
        "one_in": [round(tokens / count) if count else None for count in counts.tolist()],
        "x": [round(float(x), 3) for x in records.places[:, 0]],
        "y": [round(float(y), 3) for y in records.places[:, 1]],
    }


def _texts(records: Records) -> list[str]:
    """Of each atom what stands around its token, as much as fits."""
    found: list[str] = []
    for before, after in _SNIPPETS:
        found = [records.describe(atom, before, after) for atom in range(len(records))]
        if sum(len(text.encode()) for text in found) <= _TABLE_BYTES:
            break
    return found


def atom(records: Records, number: int) -> dict[str, Any]:
    """Everything about one atom.

    Raises: OptionError if there is none of that number.
    """
    uses, values = records.uses_of(number), records.coefficients_of(number)
    count = len(uses)
    tokens = len(records.tokens)
    largest = float(np.abs(values).max()) if count else 0.0
    own = _own_coefficients(records, uses, values)
    facts: dict[str, Any] = {
        "atom": number,
        "token": word(records.token_of(number), _LONGEST_TOKEN),
        "kind": records.facts["kind"],
        "by_example": records.facts["by_example"],
        "parts": [_part(records, part) for part in records.parts_of(number)],
        "uses": count,
        "share": count / tokens if tokens else None,
        "one_in": round(tokens / count) if count else None,
        "size": float(records.sizes[number]),
        "energy": float(records.energies[number]),
        "positive": _contexts(records, uses[values > 0], largest, own),
        "negative": _contexts(records, uses[values < 0], largest, own),
        "together": _together(records, number, uses),
        "nearest": [
            {"atom": int(other), "cosine": round(float(cosine), 3), "text": records.describe(int(other), brief=True)}
            for other, cosine in zip(records.nearest[number], records.cosines[number], strict=True)
        ],
        "raises": _words(records, number, 0),
        "lowers": _words(records, number, 1),
        "heads": [round(float(share), 4) for share in records.heads[number]],
        "effect": records.effects.get(str(number)),
    }
    return facts


def texts_using(records: Records, number: int, count: int = 16) -> list[str]:
    """The stretches of text in which an atom is strongest."""
    windows = records.tokens[records.uses_of(number) // records.atoms.shape[1], 0].tolist()
    return [records.windows[window] for window in list(dict.fromkeys(windows))[:count]]


def atom_chart(records: Records, number: int) -> Any:
    """How large an atom's coefficients are where it is used; None if it never is."""
    values = records.coefficients_of(number)
    if not len(values):
        return None
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    return charts.bars(
        counts.tolist(), edges.tolist(), title="How much of it tokens have", across="coefficient", up="tokens"
    )


def _part(records: Records, part: Any) -> dict[str, Any]:
    before, token, after = records.quoted(part, _BEFORE, _AFTER)
    shown = (visible(before), visible(token, _LONGEST_TOKEN), visible(after))
    document = records.document(part.window)[:8] if part.window >= 0 else None
    return {"weight": part.weight, "before": shown[0], "token": shown[1], "after": shown[2], "document": document}


def _own_coefficients(records: Records, uses: Array, values: Array) -> dict[int, float]:
    """Of each row that uses an atom, how much of it."""
    rows = uses // records.atoms.shape[1]
    return dict(zip(rows.tolist(), values.tolist(), strict=True))


def _contexts(records: Records, uses: Array, largest: float, own: dict[int, float]) -> list[Context]:
    """The strongest uses of an atom, one a window, so that they differ."""
    found: list[Context] = []
    seen: set[int] = set()
    for row in (uses // records.atoms.shape[1]).tolist():
        window = int(records.tokens[row, 0])
        if window not in seen:
            seen.add(window)
            found.append(_context(records, row, largest, own))
        if len(found) == CONTEXTS:
            break
    return found


def _context(records: Records, row: int, largest: float, own: dict[int, float]) -> Context:
    window, start, end = map(int, records.tokens[row])
    text = records.windows[window]
    first, last = max(0, start - _BEFORE), min(len(text), end + _AFTER)
    pieces: list[Piece] = [Piece("…", 0, False, "")] if first or int(records.window_starts[window]) else []
    place = first
    near = np.searchsorted(records.tokens[:, 0], [window, window + 1])
    for other in range(int(near[0]), int(near[1])):
        begin, stop = int(records.tokens[other, 1]), int(records.tokens[other, 2])
        if other not in own or stop <= place or begin >= last or stop <= begin:
            continue
        begin = max(begin, place)
        if begin > place:
            pieces.append(Piece(visible(text[place:begin]), 0, False, ""))
        value = own[other]
        shade = int(np.sign(value)) * max(1, round(_SHADES * abs(value) / largest)) if largest else 0
        pieces.append(Piece(visible(text[begin:stop], _LONGEST_TOKEN), shade, other == row, f"{value:+.2f}"))
        place = stop
    if place < last:
        pieces.append(Piece(visible(text[place:last]), 0, False, ""))
    if last < len(text):
        pieces.append(Piece("…", 0, False, ""))
    return Context(round(own[row], 3), records.document(window)[:8], pieces)


def _together(records: Records, number: int, uses: Array) -> list[dict[str, Any]]:
    """Atoms that are in the same codes, by the share of tokens that have both among those that have either."""
    if not len(uses):
        return []
    codes = records.atoms[uses // records.atoms.shape[1]]
    both = np.bincount(codes[codes >= 0], minlength=len(records))
    both[number] = 0
    shares = both / np.maximum(records.counts + len(uses) - both, 1)
    order = np.argsort(-shares, kind="stable")[:_TOGETHER]
    return [
        {"atom": int(other), "share": round(float(shares[other]), 4), "text": records.describe(int(other), brief=True)}
        for other in order if both[other]
    ]  # fmt: skip


def _words(records: Records, number: int, side: int) -> list[tuple[str, float]]:
    return [
        (word(records.words[int(place)], _LONGEST_TOKEN), round(float(value), 3))
        for place, value in zip(records.lens[number, side], records.lens_values[number, side], strict=True)
        if place >= 0
    ]
