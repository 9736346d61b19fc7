"""Claims of papers as functions of the tables, one module a paper; and claims of a user's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ncpipe.claims.evidence.claim import Claim, Frames
from ncpipe.claims.evidence.own import claim, own_claims
from ncpipe.claims.evidence.selectors import final, measured, run_ids, setting
from ncpipe.settings.source import is_own, short_name
from ncpipe.study.config import PAPERS


def claim_rows(frames: Frames, papers: Iterable[str], scale: str | None = None) -> list[dict[str, Any]]:
    """Rows of the ``claims`` table: every claim of the papers, also those that no run of the study speaks of."""
    return [{"paper": short_name(paper), **each.row(frames, scale)} for paper in papers for each in _claims(paper)]


def _claims(paper: str) -> Iterable[Claim]:
    return own_claims(paper, PAPERS[paper]) if is_own(paper) else PAPERS[paper].CLAIMS


__all__ = ["Claim", "claim", "claim_rows", "final", "measured", "run_ids", "setting"]
