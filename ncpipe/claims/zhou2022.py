"""Claims of Zhou et al. 2022."""

from __future__ import annotations

from ncpipe.claims.claim import Claim

ZHOU2022: tuple[Claim, ...] = ()
