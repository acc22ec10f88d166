"""What every pursuit must satisfy, step by step."""

import torch

from itda.pursuit import prepare, pursue, rebuild
from itda.pursuit.limits import NEGLIGIBLE


def residual_norms(x, dictionary, codes):
    """Norm of what codes leave of each row, relative to the row."""
    return (x - rebuild(codes, dictionary)).double().norm(dim=1) / x.double().norm(dim=1).clamp_min(1e-300)


def rounding_of_coefficients(values):
    """On near-copies least-squares coefficients are thousands of times the row, and float32 has 7 digits."""
    return 1e-6 * values.double().abs().amax(1)


def assert_every_choice_is_a_best_one(x, dictionary, coding, backend, memory=None, tolerance=1e-5):
    """Follow the pursuit step by step: codes of k steps are those of k - 1 and one choice more."""
    prepared = prepare(dictionary, memory=memory)
    exact, norms = x.double(), x.double().norm(dim=1)
    before = torch.zeros(len(x), len(dictionary), dtype=torch.float64)
    for steps in range(1, coding.steps + 1):
        now = pursue(x, prepared, coding.with_options(steps=steps), backend=backend)
        after = now.to_dense(len(dictionary)).double()
        residual = exact - before @ dictionary.double()
        correlations = residual @ dictionary.double().T
        sizes = correlations if coding.nonnegative else correlations.abs()
        best = sizes.amax(1)
        if coding.method == "mp":
            changed = (after - before).abs()
            moved = changed.amax(1) > 0
            chosen = changed.argmax(1)
        else:  # the coefficients of all atoms change: the choice is known where one atom is new
            if coding.method == "gp" and coding.nonnegative:  # one that had fallen to zero may come back unchosen
                return
            fresh = (after != 0) & (before == 0)
            moved, chosen = fresh.sum(1) == 1, fresh.byte().argmax(1)
        lead = best - sizes.gather(1, chosen[:, None])[:, 0]
        if steps == 1:
            began, at_first = now.atoms[:, 0], sizes
        elif coding.method == "mp":  # of first atoms that are equally good, as many steps may take another one
            other = now.atoms[:, 0] != began
            apart = at_first.amax(1) - at_first.gather(1, now.atoms[:, :1].clamp_min(0).long())[:, 0]
            assert (apart[other] <= tolerance * norms[other]).all()
            moved &= ~other
        allowed = tolerance * norms + rounding_of_coefficients(before)
        assert (lead[moved] <= allowed[moved]).all()
        if coding.method == "mp" or (coding.method == "omp" and not coding.nonnegative):
            stopped = (after == before).all(1) if coding.method == "mp" else ~fresh.any(1)
            assert (best[stopped] <= (allowed + 2 * NEGLIGIBLE * norms)[stopped]).all()  # nothing is left to choose
        before = after
