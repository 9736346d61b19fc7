from .architecture import Backbone as Backbone
from .build import build_network as build_network
from .head import Classifier as Classifier
from .network import Network as Network
from .network import Output as Output
from .network import as_vectors as as_vectors
