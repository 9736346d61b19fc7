"""Claims of papers as functions of the tables, one module a paper."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ncpipe.claims.evidence.claim import Claim, Frames
from ncpipe.study.config import PAPERS


def claim_rows(frames: Frames, papers: Iterable[str], scale: str | None = None) -> list[dict[str, Any]]:
    """Rows of the ``claims`` table: every claim of the papers, also those that no run of the study speaks of."""
    return [{"paper": paper, **claim.row(frames, scale)} for paper in papers for claim in PAPERS[paper].CLAIMS]


__all__ = ["Claim", "claim_rows"]
