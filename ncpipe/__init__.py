"""ncpipe: neural collapse in trained networks, compared with unconstrained-features models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncpipe.collapse import measure as measure

__version__ = "0.1.0"
__all__ = ["__version__", "measure"]


def __getattr__(name: str) -> Any:
    # Lazy, so that Snakemake can import ncpipe.study without loading torch.
    if name == "measure":
        from ncpipe.collapse import measure

        return measure
    raise AttributeError(f"module 'ncpipe' has no attribute {name!r}")
