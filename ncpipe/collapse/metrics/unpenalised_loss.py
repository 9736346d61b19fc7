"""Mean loss of the samples without penalties. A scalar of ``Trace``."""

from ncpipe.collapse.metrics import Metric, Quantity

METRIC = Metric({"loss": Quantity("mean loss without penalties in evaluation mode", "mean, without penalties")})
