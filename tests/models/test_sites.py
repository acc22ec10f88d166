"""Sites are found by structure in every architecture, read what the model itself reports, and leave no trace."""

import pytest
import torch

import itda
from itda import steer
from itda.data.store import Store
from itda.errors import OptionError, SiteError
from itda.models import hook_names
from itda.models.hooks import editing, read
from itda.models.sites import list_sites, norms_follow, resolve
from support import tiny

IDS = {"input_ids": torch.randint(5, 200, (2, 10), generator=torch.Generator().manual_seed(0))}


@pytest.fixture(scope="module", params=list(tiny.ALL))
def case(request):
    return request.param, tiny.module(request.param)


def run(module, **options):
    with torch.no_grad():
        return module(**IDS, attention_mask=torch.ones_like(IDS["input_ids"]), **options)


def test_the_residual_stream_is_what_the_model_reports(case):
    name, module = case
    hidden = run(module, output_hidden_states=True).hidden_states
    found = read(module, IDS, list_sites(module))
    for layer in range(tiny.DEPTH):
        assert torch.equal(found[f"resid_pre.{layer}"], hidden[layer])
        # Decoders report the last state after the final norm; before it is where the stream ends
        if layer < tiny.DEPTH - 1 or name in tiny.ENCODERS:
            assert torch.equal(found[f"resid_post.{layer}"], hidden[layer + 1])


def test_every_site_has_the_width_it_says(case):
    _, module = case
    sites = list_sites(module)
    for name, value in read(module, IDS, sites).items():
        width = next(site.width for site in sites if site.name == name)
        assert value.shape == (2, 10, width), name


def test_each_layer_has_the_parts_of_its_kind(case):
    name, module = case
    kinds = {site.name.split(".")[0] for site in list_sites(module) if site.name.endswith(".1")}
    inner = {"router"} if name in tiny.EXPERTS else {"mlp_neurons"}
    assert kinds == {"resid_pre", "resid_post", "attn_out", "attn_heads", "mlp_out"} | inner


def test_parts_come_before_any_norm(case):
    """What attention and MLP give is a linear map of their inner sites."""
    name, module = case
    found = read(module, IDS, list_sites(module))
    pairs = [("attn_heads.1", "attn_out.1")] + ([] if name in tiny.EXPERTS else [("mlp_neurons.1", "mlp_out.1")])
    for inner, outer in pairs:
        projection = module.get_submodule(resolve(module, inner).module)
        with torch.no_grad():
            assert torch.allclose(projection(found[inner]), found[outer], atol=1e-6)


def test_the_stream_is_the_sum_of_its_parts():
    """In an architecture without norms on the way back the parts add up."""
    for name in ("GPT-2", "Llama", "OPT", "Phi", "GPT-NeoX", "Mixtral"):
        found = read(module := tiny.module(name), IDS, list_sites(module))
        total = found["resid_pre.1"] + found["attn_out.1"] + found["mlp_out.1"]
        assert torch.allclose(total, found["resid_post.1"], atol=1e-5), name


def hooks(module):
    """How many there are; transformers keeps some of its own."""
    return [len(item._forward_hooks) + len(item._forward_pre_hooks) for item in module.modules()]


def test_reading_leaves_no_trace(case):
    _, module = case
    before = run(module)[0]
    module.train()
    module.get_submodule(list_sites(module)[0].module).eval()
    modes, hooked = [item.training for item in module.modules()], hooks(module)
    read(module, IDS, list_sites(module)[:3])
    assert modes == [item.training for item in module.modules()]
    assert torch.is_grad_enabled()
    assert hooks(module) == hooked
    module.eval()
    assert torch.equal(run(module)[0], before)


def test_a_failing_pass_leaves_no_trace_either():
    module = tiny.module("GPT-2")
    with pytest.raises(IndexError):
        read(module, {"input_ids": torch.full((1, 4), 10**6)}, list_sites(module))
    assert not any(item._forward_hooks or item._forward_pre_hooks for item in module.modules())


def test_the_pass_stops_after_the_deepest_site():
    module = tiny.module("Llama")
    reached = []
    handles = [
        layer.register_forward_hook(lambda *_, i=i: reached.append(i)) for i, layer in enumerate(module.model.layers)
    ]
    read(module, IDS, [resolve(module, "resid_post.0"), resolve(module, "attn_out.1")])
    for handle in handles:
        handle.remove()
    assert reached == [0]


def test_editing_replaces_and_comes_off(case):
    _, module = case
    for name in ("resid_pre.1", "attn_heads.1", "mlp_out.1", "resid_post.1"):
        site = resolve(module, name)
        own = read(module, IDS, [site])[name]
        before = run(module)[0]
        with editing(module, site, lambda values, own=own: own, IDS):
            assert torch.equal(run(module)[0], before), name
        # An uneven change: a norm right behind would take off one that is the same everywhere
        bump = torch.linspace(-5, 5, own.shape[-1])
        with editing(module, site, lambda values, bump=bump: values + bump, IDS):
            assert not torch.allclose(run(module)[0], before, atol=1e-5), name
        assert torch.equal(run(module)[0], before), name


def test_layers_that_return_tuples_work_too():
    """Older transformers return (hidden states, ...) from a layer."""
    module = tiny.module("GPT-2")
    expected = read(module, IDS, [resolve(module, "resid_post.1")])["resid_post.1"]

    class Older(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, *args, **kwargs):
            return (self.layer(*args, **kwargs), "something else")

    class Newer(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, *args, **kwargs):
            return self.layer(*args, **kwargs)[0]

    class Kept(torch.nn.Module):
        """Takes the tuple off again, as the older model around the layer did."""

        def __init__(self, older):
            super().__init__()
            self.older = older

        def forward(self, *args, **kwargs):
            return self.older(*args, **kwargs)[0]

    module.transformer.h[1] = Kept(Older(module.transformer.h[1]))
    site = resolve(module, "transformer.h.1.older")
    assert torch.equal(read(module, IDS, [site])[site.name], expected)
    before = run(module)[0]
    with editing(module, site, lambda values: values * 0, IDS):
        assert not torch.allclose(run(module)[0], before)


def test_any_module_path_is_a_site():
    module = tiny.module("Llama")
    site = resolve(module, "model.layers.1.mlp.gate_proj")
    assert (site.width, read(module, IDS, [site])[site.name].shape) == (24, (2, 10, 24))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resid_post.7", "resid_post exists at layers 0 to 2"),
        ("router.0", "no layer of this model"),
        ("resid_pos.1", "resid_post.1"),
        ("model.layers.1.mlp.gate", "model.layers.1.mlp.gate_proj"),
        ("", "A site is named like"),
        (3, "itda sites"),
    ],
)
def test_unknown_sites_name_the_near_ones(name, says):
    with pytest.raises(SiteError, match=says):
        resolve(tiny.module("Llama"), name)


def test_a_site_without_a_row_per_token():
    module = tiny.module("Llama")
    module.get_submodule("model.rotary_emb")
    site = resolve(module, "model.rotary_emb")
    with pytest.raises(SiteError, match="one row per token"):
        read(module, IDS, [site])


def test_a_site_that_is_never_reached():
    module = tiny.module("Llama")
    module.unused = torch.nn.Linear(4, 4)
    with pytest.raises(SiteError, match="never reached unused"):
        read(module, IDS, [resolve(module, "unused")])


def test_a_model_without_layers_has_only_paths():
    class Odd(torch.nn.Module):
        config = tiny.ALL["GPT-2"]()

        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(4, 6)

    with pytest.raises(SiteError, match="Name a module by its path"):
        list_sites(Odd())
    assert resolve(Odd(), "inner").width == 6


@pytest.mark.parametrize("kind", ["resid_pre", "resid_post", "attn_out", "attn_heads", "mlp_out", "mlp_neurons"])
def test_names_of_transformer_lens_are_the_same_places(kind):
    module = tiny.module("Llama")
    hook = hook_names.to_hook(f"{kind}.1")
    assert hook_names.to_site(hook) == f"{kind}.1"
    assert resolve(module, hook) == resolve(module, f"{kind}.1")


def test_what_transformer_lens_takes_elsewhere_is_refused():
    module = tiny.module("Gemma 2")
    assert norms_follow(module)
    assert not norms_follow(tiny.module("Llama"))  # its norms come before
    for kind in ("attn_out", "mlp_out"):
        assert hook_names.to_hook(f"{kind}.1", norms_follow=True) is None
        with pytest.raises(SiteError, match="after the norm that follows"):
            resolve(module, hook_names.to_hook(f"{kind}.1"))
    assert resolve(module, "blocks.1.hook_resid_post").name == "resid_post.1"
    assert hook_names.to_hook("router.1") is None
    assert hook_names.to_hook("lm_head") is None
    for name in ("blocks.1.hook_resid_mid", "blocks.x.hook_resid_post", "blocks.9.hook_resid_post"):
        with pytest.raises(SiteError):
            resolve(module, name)


def test_places_may_be_called_so_everywhere(model, tmp_path):
    hook, texts = "blocks.1.hook_resid_post", itda.Corpus.from_texts(tiny.KINGS)
    dictionary = itda.build(model, texts, site=hook, atoms=24, progress=False)
    assert dictionary.site == "resid_post.1"
    assert itda.explain(dictionary, model, "the king", site=hook).site == "resid_post.1"
    assert set(itda.build_many(model, texts, sites=[hook], atoms=24, progress=False)) == {"resid_post.1"}
    assert itda.capture(model, texts, hook, store=tmp_path, progress=False).site == "resid_post.1"
    assert Store(tmp_path).open(hook).site == "resid_post.1"
    vector = steer.SteeringVector.fit(model, [("good", "bad"), ("old", "new")], sites=[hook], progress=False)
    assert vector.at(hook).sites == ("resid_post.1",)
    with pytest.raises(OptionError, match="each once"):
        itda.capture(model, texts, [hook, "resid_post.1"], progress=False)


@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_what_was_compiled_before_is_read_and_edited_too(how):
    plain, module = tiny.module("Llama"), tiny.module("Llama")
    used = module
    if how == "wrapped":
        used = torch.compile(module, backend="eager")
    else:
        module.compile(backend="eager")
    run(used)
    model, expected = itda.wrap(used, tiny.tokenizer()), itda.wrap(plain, tiny.tokenizer())
    assert model.record == expected.record
    place = model.site("resid_post.1")
    assert torch.equal(read(model.module, IDS, [place])[place.name], read(plain, IDS, [place])[place.name])
    with editing(plain, place, torch.zeros_like, IDS):
        zeroed = run(plain).logits
    with editing(model.module, place, torch.zeros_like, IDS):
        assert torch.equal(run(used).logits, zeroed)
    assert not torch.equal(run(used).logits, zeroed)


class Adapter(torch.nn.Module):
    """As PEFT puts one around a linear map."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.in_features, self.out_features = base, base.in_features, base.out_features
        self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(2, base.out_features, bias=False)})
        torch.nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, rows):
        return self.base_layer(rows) + self.lora_B["default"](self.lora_A["default"](rows))


def test_an_adapter_is_a_part_of_the_map_it_is_around():
    plain, module = tiny.module("Llama"), tiny.module("Llama")
    for layer in module.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(part, name, Adapter(child))
    sites, expected = list_sites(module), list_sites(plain)
    assert [(site.name, site.width, site.module) for site in sites] == [
        (site.name, site.width, site.module) for site in expected
    ]
    found, wanted = read(module, IDS, sites), read(plain, IDS, expected)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)
