"""Claims of papers as functions of the tables, one module a paper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ncpipe.claims.evidence.claim import Claim, Frames
from ncpipe.claims.han2022 import HAN2022
from ncpipe.claims.harun2025 import HARUN2025
from ncpipe.claims.li2024 import LI2024
from ncpipe.claims.papyan2020 import PAPYAN2020
from ncpipe.claims.rangamani2023 import RANGAMANI2023
from ncpipe.claims.sukenik2023 import SUKENIK2023
from ncpipe.claims.tirer2022 import TIRER2022
from ncpipe.claims.yaras2022 import YARAS2022
from ncpipe.claims.zhou2022 import ZHOU2022
from ncpipe.study.config import Paper

CLAIMS: dict[Paper, tuple[Claim, ...]] = {
    "tirer2022": TIRER2022,
    "sukenik2023": SUKENIK2023,
    "han2022": HAN2022,
    "papyan2020": PAPYAN2020,
    "zhou2022": ZHOU2022,
    "rangamani2023": RANGAMANI2023,
    "yaras2022": YARAS2022,
    "li2024": LI2024,
    "harun2025": HARUN2025,
}
"""The claims by paper."""


def claim_rows(frames: Frames, papers: Iterable[Paper], scale: str | None = None) -> list[dict[str, Any]]:
    """Rows of the ``claims`` table: every claim of the papers, also those that no run of the study speaks of."""
    return [{"paper": paper, **claim.row(frames, scale)} for paper in papers for claim in CLAIMS[paper]]


__all__ = ["CLAIMS", "Claim", "claim_rows"]
