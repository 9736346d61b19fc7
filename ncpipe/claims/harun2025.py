"""Claims of Harun & Kanan 2025."""

from __future__ import annotations

from ncpipe.claims.claim import Claim

HARUN2025: tuple[Claim, ...] = ()
