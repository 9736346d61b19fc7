"""Claims of Rangamani et al. 2023."""

from __future__ import annotations

from ncpipe.claims.claim import Claim

RANGAMANI2023: tuple[Claim, ...] = ()
