from .collapse import measure as measure
from .collapse.streaming import CollapseMetrics as CollapseMetrics
from .networks.measure_model import measure_model as measure_model

__version__: str
