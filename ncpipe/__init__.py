"""ncpipe: neural collapse in trained networks, compared with unconstrained-features models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ncpipe.system import torchvision_import

if TYPE_CHECKING:
    from ncpipe.collapse import measure as measure
    from ncpipe.collapse.streaming import CollapseMetrics as CollapseMetrics

torchvision_import.install()

__version__ = "0.1.0"
__all__ = ["CollapseMetrics", "__version__", "measure"]


def __getattr__(name: str) -> Any:
    # Lazy, so that Snakemake can import ncpipe.study without loading torch.
    if name == "measure":
        from ncpipe.collapse import measure

        return measure
    if name == "CollapseMetrics":
        from ncpipe.collapse.streaming import CollapseMetrics

        return CollapseMetrics
    raise AttributeError(f"module 'ncpipe' has no attribute {name!r}")
