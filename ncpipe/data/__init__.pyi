from .dataset import Dataset as Dataset
from .dataset import Split as Split
from .dataset import load as load
from .preparation import prepare as prepare
from .source import nominal_shape as nominal_shape
