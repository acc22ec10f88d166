"""itda info"""

from itda.cli import common

_SHOWN = 10
_KINDS = {
    "activations": "every atom is an activation",
    "mixtures": "every atom is a mixture of a few activations",
    "learned": "atoms are directions that no activation has",
}


def info(folder: common.Folder, json: common.Json = False) -> None:
    """Say what a dictionary is: model, site, corpus, how it was built, and its most used atoms.

    Example: `itda info runs/l2`
    """
    from itda.data.dictionary import Dictionary

    dictionary = Dictionary.from_pretrained(str(folder))
    most_used = dictionary.usage_counts.argsort(descending=True, stable=True)[:_SHOWN].tolist()
    never = int((dictionary.usage_counts == 0).sum())
    if json:
        atoms = [
            {"atom": atom, "uses": int(dictionary.usage_counts[atom]), **dictionary.origin(atom)} for atom in most_used
        ]
        facts = {"documents": len(dictionary.documents), "never_used": never, "fingerprint": dictionary.fingerprint}
        common.print_json({**dictionary.facts(), **facts, "most_used": atoms})
        return
    from rich.table import Table

    from itda.shown import Quote

    build, provenance = dictionary.build, dictionary.provenance
    lines = [repr(dictionary)]
    if provenance:
        settings = ", ".join(provenance.model.settings.values())
        lines.append(f"model       {provenance.model.id} ({settings})")
        lines.append(
            f"corpus      {provenance.corpus_name}, {len(dictionary.documents):,} documents, "
            f"fingerprint {provenance.corpus[:12]}"
        )
        seen = provenance.capture["counts"]
        counts = ", ".join(f"{seen[name]:,} {name}" for name in ("tokens", "special", "sinks", "rows") if name in seen)
        lines.append(f"read        {counts} (windows of {provenance.capture['window']} tokens)")
    made = f", {build.rows:,} rows{common.novelty(build)}" if build.rows else ""
    examples = ": the texts are examples, not names" if dictionary.by_example else ""
    lines.append(f"built       {build.method}{made}; {_KINDS[dictionary.kind]}{examples}")
    lines.append(f"coding      {dictionary.coding}")
    if build.rows and build.unexplained is None:
        lines.append("unexplained not measured: it was merged without rows (itda merge --store measures, evaluate too)")
    elif build.rows:
        which = "the rows that atoms were added from" if build.method == "extend" else "the rows it was built from"
        lines.append(f"unexplained {build.unexplained:.1%} of a row in the mean, on a sample of {which}")
    lines.append(f"versions    {', '.join(f'{name} {number}' for name, number in build.versions.items())}")
    lines += [f"note        {note}" for note in build.notes]
    table = Table("uses", "atom", "text", show_edge=False, pad_edge=False, title="most used", title_justify="left")
    for atom in most_used:
        table.add_row(f"{int(dictionary.usage_counts[atom]):,}", str(atom), Quote.of(dictionary.describe(atom)))
    if build.rows or dictionary.by_example:
        sample = "that sample" if build.rows else "the activations that the examples are taken from"
        common.print_rich("\n".join(lines), "", table, f"\n{never:,} atoms are never used on {sample}")
    else:  # another tool made it: nothing is known about uses
        common.print_rich("\n".join(lines))
