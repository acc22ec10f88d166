"""itda sites"""

from dataclasses import asdict

from itda.cli import common
from itda.models.hook_names import to_hook
from itda.models.sites import norms_follow


def sites(
    model: common.ModelName = common.EMBEDDED,
    device: common.Device = None,
    dtype: common.Dtype = None,
    tokenizer: common.Tokenizer = None,
    json: common.Json = False,
) -> None:
    """List the named places of a model with their widths; any module path is a place too.

    The names of TransformerLens, in the last column, are taken wherever a site is.

    Example: `itda sites ./model`
    """
    loaded = common.open_model(model, device, dtype, tokenizer=tokenizer)
    found = loaded.sites()
    hooks = {site.name: to_hook(site.name, norms_follow=norms_follow(loaded.module)) for site in found}
    if json:
        listed = [{**asdict(site), "transformer_lens": hooks[site.name]} for site in found]
        common.print_json({"model": loaded.id, "sites": listed})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "site",
        "width",
        "module",
        "side",
        "in TransformerLens",
        show_edge=False,
        pad_edge=False,
        title=Text(repr(loaded)),
        title_justify="left",
    )
    for site in found:
        table.add_row(site.name, "?" if site.width is None else str(site.width), site.module, site.side,
                      hooks[site.name] or "")  # fmt: skip
    common.print_rich(table)
