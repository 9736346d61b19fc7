from .collapse import measure as measure
from .collapse import regression_collapse as regression_collapse
from .collapse.streaming import CollapseMetrics as CollapseMetrics
from .networks.measure_model import measure_model as measure_model
from .recording.recorder import Recorder as Recorder

__version__: str
