"""Claims of Li et al. 2024."""

from __future__ import annotations

from ncpipe.claims.claim import Claim

LI2024: tuple[Claim, ...] = ()
