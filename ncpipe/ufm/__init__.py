"""Unconstrained-features models: problems, their closed-form optima, and solvers.

>>> from ncpipe.ufm import Problem, fit
>>> problem = Problem(classes=4, samples=5, dim=6, weight_decay=5e-3, feature_decay=1e-3)
>>> round(problem.optimum().value, 8)
0.0198
>>> abs(fit(problem, seed=0).gap) < 1e-10
True
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
