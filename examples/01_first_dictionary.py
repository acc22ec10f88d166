"""Build a dictionary, see what it is worth, and read a sentence with it.

Everything here comes with itda: a small model of Python's documentation and that text itself.
"""

import itda

model = itda.load_model("embedded")
corpus = itda.Corpus.embedded()
train, held_out = corpus.split(held_out=0.1, seed=0)

dictionary = itda.build(model, train, site="resid_post.3", atoms=512, tokens=20_000)
print(dictionary)

# An atom is a real activation, so it has a place in a text.
source = dictionary.sources[17]
print(f"Atom 17 is token {source.token!r} of document {source.document[:8]}: {source.text}")

report = itda.evaluate(dictionary, model, held_out, tokens=5_000)
print(report)
random_atoms = report.baselines["random atoms"]
print(f"The loss rises by {report.delta_ce:.3f} nats; with random atoms by {random_atoms.delta_ce:.3f}.")

print(itda.explain(dictionary, model, "Return True if the string is empty."))
