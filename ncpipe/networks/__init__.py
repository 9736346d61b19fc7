"""The networks that are trained: stages with names, the last of which is read by a linear classifier."""

from ncpipe.networks.build import build_network
from ncpipe.networks.head import Classifier
from ncpipe.networks.network import Network, Output, as_vectors

__all__ = ["Classifier", "Network", "Output", "as_vectors", "build_network"]
