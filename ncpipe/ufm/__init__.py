"""Unconstrained-features models: problems, their closed-form optima, and solvers.

>>> from ncpipe.ufm import Problem, fit
>>> problem = Problem(classes=4, samples=5, dim=6, weight_decay=5e-3, feature_decay=1e-3)
>>> round(problem.optimum().value, 8)
0.0198
>>> abs(fit(problem, seed=0).gap) < 1e-10
True
"""

from ncpipe.ufm.closed_form import NoClosedForm, Optimum
from ncpipe.ufm.fit import GradientDescent, History, Lbfgs, Result, fit
from ncpipe.ufm.matched import MatchedUfm, match
from ncpipe.ufm.objective import Minimiser
from ncpipe.ufm.problem import Problem

__all__ = [
    "GradientDescent",
    "History",
    "Lbfgs",
    "MatchedUfm",
    "Minimiser",
    "NoClosedForm",
    "Optimum",
    "Problem",
    "Result",
    "fit",
    "match",
]
