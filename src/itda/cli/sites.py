"""itda sites"""

from dataclasses import asdict

from itda.cli import common


def sites(
    model: common.ModelName = common.EMBEDDED,
    device: common.Device = None,
    dtype: common.Dtype = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """List the named places of a model with their widths; any module path is a place too.

    Example: `itda sites ./model`
    """
    loaded = common.open_model(model, device, dtype, tokenizer=tokenizer)
    found = loaded.sites()
    if json:
        common.print_json({"model": loaded.id, "sites": [asdict(site) for site in found]})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "site",
        "width",
        "module",
        "side",
        show_edge=False,
        pad_edge=False,
        title=Text(repr(loaded)),
        title_justify="left",
    )
    for site in found:
        table.add_row(site.name, "?" if site.width is None else str(site.width), site.module, site.side)
    common.print_rich(table)
