"""Several sites in one pass, a threshold instead of a size, and other ways to make a code."""

import itda

model = itda.load_model("embedded")
train, held_out = itda.Corpus.embedded().split(held_out=0.1, seed=0)

for site in model.sites()[:7]:
    print(site.name, site.width)

# One pass of the model builds a dictionary at each site.
many = itda.build_many(model, train, sites=["resid_post.1", "mlp_out.3"], atoms=256, tokens=5_000)
for site, dictionary in many.items():
    print(site, itda.evaluate(dictionary, model, held_out, tokens=2_000, baselines=False).fvu)

# A threshold: every row of which more than a fifth is unexplained becomes an atom.
grown = itda.build(model, train, site="resid_post.1", max_unexplained=0.2, tokens=5_000)
print(f"A fifth unexplained at most takes {len(grown)} atoms.")

# The rule of the paper, for comparison; the public code's threshold is 2 / width times this gap.
paper = itda.build(model, train, site="resid_post.1", atoms=256, tokens=5_000, method="paper", max_cosine_gap=0.1)

# The same atoms with more steps, orthogonal pursuit, or coefficients fitted again.
activations = itda.capture(model, held_out, site="resid_post.1", tokens=1_000)
for coding in (
    itda.Coding(steps=8),
    itda.Coding(steps=16),
    itda.Coding(steps=8, refit=True),
    itda.Coding(steps=8, method="omp"),
):
    codes = paper.encode(activations, coding=coding)
    print(coding, f"{codes.unexplained.mean():.3f} unexplained")
