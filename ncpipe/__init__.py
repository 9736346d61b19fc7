"""ncpipe: neural collapse in trained networks, compared with unconstrained-features models."""

import lazy_loader

from ncpipe.system import torchvision_import

torchvision_import.install()

__version__ = "0.1.0"
# Lazy, here and in packages below, so that Snakemake reads a study without loading torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
