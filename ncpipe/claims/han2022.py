"""Claims of Han, Papyan & Donoho 2022."""

from __future__ import annotations

from ncpipe.claims.claim import Claim

HAN2022: tuple[Claim, ...] = ()
