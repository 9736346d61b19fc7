"""Claims of Papyan, Han & Donoho 2020."""

from __future__ import annotations

from ncpipe.claims.claim import Claim

PAPYAN2020: tuple[Claim, ...] = ()
