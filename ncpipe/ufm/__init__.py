"""Unconstrained-features models: problems, their closed-form optima, and solvers.

>>> from ncpipe.ufm import Problem, fit
>>> problem = Problem(classes=4, samples=5, dim=6, weight_decay=5e-3, feature_decay=1e-3)
>>> round(problem.optimum().value, 8)
0.0198
>>> abs(fit(problem, seed=0).gap) < 1e-10
True
"""

from ncpipe.ufm.central_path import CentralPath, renormalized_flow, snr, snr_law
from ncpipe.ufm.fit import fit
from ncpipe.ufm.matched import Goodness, MatchedUfm, match, match_statistics
from ncpipe.ufm.minimiser import Minimiser
from ncpipe.ufm.misfit import Misfit, Signature, fair_guess, misfit
from ncpipe.ufm.optimum import NoClosedForm, Optimum
from ncpipe.ufm.perturbation import Perturbation, perturb
from ncpipe.ufm.problem import Problem
from ncpipe.ufm.result import History, Result

__all__ = [
    "CentralPath",
    "Goodness",
    "History",
    "MatchedUfm",
    "Minimiser",
    "Misfit",
    "NoClosedForm",
    "Optimum",
    "Perturbation",
    "Problem",
    "Result",
    "Signature",
    "fair_guess",
    "fit",
    "match",
    "match_statistics",
    "misfit",
    "perturb",
    "renormalized_flow",
    "snr",
    "snr_law",
]
