"""Claims of Súkeník, Mondelli & Lampert 2023."""

from __future__ import annotations

from ncpipe.claims.claim import Claim

SUKENIK2023: tuple[Claim, ...] = ()
