"""Data sets: found or downloaded, cut to balanced subsets, and written once in a form that loads at once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
