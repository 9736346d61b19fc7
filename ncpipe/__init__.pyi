from .collapse import measure as measure
from .collapse.streaming import CollapseMetrics as CollapseMetrics

__version__: str
