"""Plugins by name: the modules of a folder, and entry points of installed packages."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

Plugin = TypeVar("Plugin")


class Registry(Mapping[str, Plugin], Generic[Plugin]):
    """What the modules of a package define under one attribute, by name; a module is a plugin by its being there.

    Modules that begin with ``_`` are none. Another package adds a plugin by an entry point of the group that is
    called as the package: ``[project.entry-points."ncpipe.figures"]``, ``name = "its.module:attribute"``.

    Args:
        package: name of the package, whose modules are imported only when they are asked for.
        attribute: what a module defines; empty for the module itself.
        names: names of a plugin, where a module may have several; the package's modules are then imported for them.
    """

    def __init__(
        self, package: str, attribute: str = "", names: Callable[[Plugin], Iterable[str]] | None = None
    ) -> None:
        self.package, self.attribute, self._names_of = package, attribute, names
        self._loaded: dict[str, tuple[EntryPoint, Plugin]] = {}

    def __getitem__(self, name: str) -> Plugin:
        place = self._places[name]
        if name not in self._loaded or self._loaded[name][0] is not place:
            self._loaded[name] = place, place.load()
        return self._loaded[name][1]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def nearest(self, name: object) -> str:
        """The rest of a message on an unknown name: the one that was meant, or all."""
        near = difflib.get_close_matches(str(name), self, n=1, cutoff=0.5)
        return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self)}"

    @cached_property
    def _places(self) -> dict[str, EntryPoint]:
        """Name -> where the plugin is defined, in the order of names; those of other packages come last."""
        found: dict[str, EntryPoint] = {}
        modules = pkgutil.iter_modules(import_module(self.package).__path__)
        own = (module.name for module in modules if not module.name.startswith("_"))
        value = f":{self.attribute}" if self.attribute else ""
        built_in = [EntryPoint(name, f"{self.package}.{name}{value}", self.package) for name in own]
        for place in (*built_in, *entry_points(group=self.package)):
            names = [place.name] if self._names_of is None else self._names_of(place.load())
            found |= dict.fromkeys(names, place)
        return found


def names_in_settings(settings: type[BaseModel]) -> tuple[str, ...]:
    """What the field ``name`` of settings may be: the names of a plugin that settings stand for."""
    return get_args(settings.model_fields["name"].annotation)


class NameIn:
    """A field that holds a name of a registry: ``Annotated[str, NameIn(REGISTRY)]``."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._known)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "enum": [*self.registry]}

    def _known(self, value: Any) -> str:
        if isinstance(value, str) and value in self.registry:
            return value
        raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, self.registry))})


class OneOf:
    """A field whose ``name`` says which settings of a registry it holds: ``Annotated[Base, OneOf(REGISTRY)]``."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        serialised = core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True)
        return core_schema.no_info_plain_validator_function(self._chosen, serialization=serialised)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        kinds = dict.fromkeys(self.registry.values())
        return {"oneOf": [handler(kind.__pydantic_core_schema__) for kind in kinds]}

    def _chosen(self, value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, Mapping):
            raise PydanticCustomError("model_type", "needs a mapping")
        if "name" not in value:
            raise ValueError("needs a 'name'")
        name = value["name"]
        if not isinstance(name, str) or name not in self.registry:
            raise ValueError(f"unknown value {name!r}; {self.registry.nearest(name)}")
        return self.registry[name].model_validate(value)


def _dumped(settings: BaseModel, info: core_schema.SerializationInfo) -> dict[str, Any]:
    return settings.model_dump(
        mode=info.mode,
        exclude_defaults=info.exclude_defaults,
        exclude_unset=info.exclude_unset,
        exclude_none=info.exclude_none,
    )
