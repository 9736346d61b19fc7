"""Plugins by name: the modules of a folder, and entry points of installed packages."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from ncpipe.settings.base import check_path
from ncpipe.settings.source import is_own, name_mistake, own, source_of
from ncpipe.system.errors import UserError

Plugin = TypeVar("Plugin")


class Registry(Mapping[str, Plugin], Generic[Plugin]):
    """What the modules of a package define under one attribute, by name; a module is a plugin by its being there.

    Folders, and modules that begin with ``_``, are none. Another package adds a plugin by an entry point of the group
    that is called as the package: ``[project.entry-points."ncpipe.figures"]``, ``name = "its.module:attribute"``.

    Args:
        package: name of the package, whose modules are imported only when they are asked for.
        attribute: what a module defines, by its name, or the class that its only class of the kind derives from;
            empty for the module itself.
        names: names of a plugin, where a module may have several; the package's modules are then imported for them.
    """

    def __init__(
        self, package: str, attribute: str | type = "", names: Callable[[Plugin], Iterable[str]] | None = None
    ) -> None:
        self.package, self.attribute, self._names_of = package, attribute, names
        self._loaded: dict[str, tuple[EntryPoint, Plugin]] = {}

    def __getitem__(self, name: str) -> Plugin:
        place = self._places[name]
        if name not in self._loaded or self._loaded[name][0] is not place:
            self._loaded[name] = place, self._load(place)
        return self._loaded[name][1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def _places(self) -> dict[str, EntryPoint]:
        """Name -> where the plugin is defined, in the order of names; those of other packages come last."""
        found: dict[str, EntryPoint] = {}
        package = find_spec(self.package)  # which is not imported
        modules = pkgutil.iter_modules(package.submodule_search_locations if package else ())
        own = (module.name for module in modules if not (module.name.startswith("_") or module.ispkg))
        value = f":{self.attribute}" if self.attribute and isinstance(self.attribute, str) else ""
        built_in = [EntryPoint(name, f"{self.package}.{name}{value}", self.package) for name in own]
        for place in (*built_in, *entry_points(group=self.package)):
            names = [place.name] if self._names_of is None else self._names_of(self._load(place))
            found |= dict.fromkeys(names, place)
        return found

    def _load(self, place: EntryPoint) -> Any:
        try:
            plugin = place.load()
        except (ImportError, AttributeError) as error:
            if place.dist is None:  # ours
                raise
            what = f"{place.name!r} of the package {place.dist.name}"
            raise UserError(f"{self.package}: cannot load {what}: {error}; update or uninstall it") from error
        if isinstance(plugin, ModuleType) and isinstance(self.attribute, type):
            kinds = (kind for kind in vars(plugin).values() if getattr(kind, "__module__", "") == plugin.__name__)
            return next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, self.attribute))
        return plugin


class ModuleRegistry(Registry[ModuleType]):
    """Modules by name, and those of files of a user's own: a name that ends in ``.py`` is a path.

    A file is none of the names that are listed, and is run where it is asked for.
    """

    def __getitem__(self, name: str) -> ModuleType:
        return own(name).module() if is_own(name) else super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return is_own(name) or super().__contains__(name)

    def answers(self, function: str, *arguments: Any) -> dict[str, Any]:
        """What this function of every listed module returns, by name; those that have none are left out.

        A module is imported for it only where the function uses something else of its module.
        """
        found = {}
        for name, place in self._places.items():
            with suppress(NameError, ValueError):
                source = source_of(None, place.value)
                if function.encode() in source.text:
                    found[name] = source.alone(function)(*arguments)
                continue
            if hasattr(self[name], function):
                found[name] = getattr(self[name], function)(*arguments)
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
        names = {"enum": [*self.registry], "type": "string"}
        files = {"pattern": r"\.py$", "type": "string", "description": "A file of your own."}
        return {"anyOf": [names, files]} if isinstance(self.registry, ModuleRegistry) else names

    def _known(self, name: Any) -> str:
        if name not in self.registry:
            raise PydanticKnownError("literal_error", {"expected": quoted(self.registry)})
        if is_own(name):
            check_path(name)
            if (mistake := name_mistake(name)) is not None:
                raise ValueError(mistake)
        return name


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
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'name'"})
        name = value["name"]
        if name not in self.registry:
            context = {"discriminator": "'name'", "tag": str(name), "expected_tags": quoted(self.registry)}
            raise PydanticKnownError("union_tag_invalid", context)
        return self.registry[name].model_validate(value)


def quoted(names: Iterable[str]) -> str:
    """Names as pydantic's errors list them."""
    return ", ".join(f"'{name}'" for name in names)


def _dumped(settings: BaseModel, info: core_schema.SerializationInfo) -> dict[str, Any]:
    return settings.model_dump(
        mode=info.mode,
        by_alias=True,
        exclude_defaults=info.exclude_defaults,
        exclude_unset=info.exclude_unset,
        exclude_none=info.exclude_none,
    )
