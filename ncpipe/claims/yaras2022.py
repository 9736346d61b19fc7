"""Claims of Yaras et al. 2022."""

from __future__ import annotations

from ncpipe.claims.claim import Claim

YARAS2022: tuple[Claim, ...] = ()
