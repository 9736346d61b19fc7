"""Solvers of unconstrained-features models, found by name: a file each, its settings and its algorithm together."""

from __future__ import annotations

from ncpipe.settings.registry import Registry
from ncpipe.ufm.solvers._base import BaseSolver

__all__ = ["SOLVERS", "BaseSolver"]

SOLVERS: Registry[type[BaseSolver]] = Registry("ncpipe.ufm.solvers", "Solver")
"""By name: what a module here, or an entry point ``ncpipe.ufm.solvers``, has as ``Solver``."""
