"""Architectures, one a file: settings, layers, and how they are built."""

from typing import Annotated

from ncpipe.networks.architecture import Architecture
from ncpipe.settings.registry import OneOf, Registry, names_in_settings

ARCHITECTURES: Registry[type[Architecture]] = Registry(__name__, Architecture, names_in_settings)
ModelSpec = Annotated[Architecture, OneOf(ARCHITECTURES)]
