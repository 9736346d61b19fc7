"""Code of a user's own: a Python file or an installed module, read and hashed without running it, and run."""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from ncpipe.settings.base import nearest
from ncpipe.system.errors import UserError

LARGEST = 4 * 2**20
"""Bytes of a file of code."""


@dataclass(frozen=True)
class Source:
    """A file of code, as it was when it was read; it runs like this also where the file changes afterwards."""

    place: str
    """The file as it was given, or the name of an installed module."""
    file: Path
    text: bytes
    installed: bool

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text).hexdigest()[:16]

    @property
    def names(self) -> tuple[str, ...] | None:
        """What the code may define, None where only running it would tell. ``ValueError`` where it is no Python."""
        return _names(self.place, self.text)

    def require(self, name: str) -> None:
        """``ValueError`` where the code is no Python, or cannot define ``name``; nothing is run."""
        known = self.names
        if known is not None and name not in known:
            raise ValueError(f"{self.place} has no class or function {name!r}; {nearest(name, known, 'it has')}")

    def module(self) -> ModuleType:
        """The code as a module, run once. ``UserError`` in one line for whatever fails in it."""
        with self.running():
            return importlib.import_module(self.place) if self.installed else _module(self)

    def call(self, name: str, make: Callable[[Any], Any]) -> Any:
        """What ``make`` returns of the object ``name``. ``UserError`` in one line for whatever fails in the code."""
        module = self.module()
        if not hasattr(module, name):
            raise UserError(f"{self.place} has no class or function {name!r}; {nearest(name, vars(module))}")
        with self.running():
            return make(getattr(module, name))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around what the code does: an exception is a ``UserError`` that names the file and its line."""
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            more = "NCPIPE_TRACEBACK=1 shows where from"
            raise UserError(f"{self.place}{self.line(error)}: {told(error)}; {more}") from error

    def line(self, error: BaseException) -> str:
        """The last line of this code on the way to an error."""
        numbers, step = [], error.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename == str(self.file):
                numbers.append(step.tb_lineno)
            step = step.tb_next
        return f", line {numbers[-1]}" if numbers else ""


def told(error: BaseException) -> str:
    """An error of a user's code in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_own(name: object) -> bool:
    """Whether a name is the path of a file, and none of a plugin."""
    return isinstance(name, str) and name.endswith(".py")


def short_name(name: str) -> str:
    """The name of what a file holds, that of the file without its ending; other names are as they are."""
    return Path(name).stem if is_own(name) else name


def name_mistake(path: str) -> str | None:
    """Why a path cannot name what its file holds, or None: it stands in names of files and in ids."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", Path(path).stem):
        return None
    return "the name of an own file may hold letters, digits, '-' and '_', 64 at most, before '.py'"


def own(path: str) -> Source:
    """The code of a file. ``UserError`` where there is none."""
    try:
        return source_of(path, None)
    except ValueError as error:
        raise UserError(str(error)) from None


def source_of(path: str | None, module: str | None) -> Source:
    """The code of a file, or of an installed module, which is found without being imported.

    Raises ``ValueError`` where there is none.
    """
    place = str(path or module)
    file = Path(place).expanduser() if path else _file_of(place)
    if file is None:
        raise ValueError(f"no module {place!r} is installed beside ncpipe ({sys.executable})")
    try:
        status = file.stat()
    except OSError:
        raise ValueError(f"no file {place!r} in {Path.cwd()}") from None
    if not file.is_file() or status.st_size > LARGEST:
        raise ValueError(f"{place!r} is no file of Python code")
    return _read(place, file, status.st_mtime_ns, status.st_size, path is None)


@cache
def _read(place: str, file: Path, stamp: int, size: int, installed: bool) -> Source:
    """The file, read once while it has this date and size."""
    try:
        return Source(place, file, file.read_bytes(), installed)
    except OSError as error:
        raise ValueError(f"cannot read {place!r}: {error.strerror}") from None


def _file_of(module: str) -> Path | None:
    """The file of a module; no package that holds it is imported, as torch may be with it."""
    places: Any = None
    spec, whole = None, ""
    for part in module.split("."):
        whole = f"{whole}.{part}".lstrip(".")
        specs = (finder.find_spec(whole, places) for finder in sys.meta_path)  # editable installs add one
        spec = next((found for found in specs if found is not None), None)
        if spec is None:
            return None
        places = spec.submodule_search_locations or []
    return Path(spec.origin) if spec is not None and spec.origin else None


@cache
def _names(place: str, text: bytes) -> tuple[str, ...] | None:
    """What the top level of the code may define, in its order; None where that cannot be known."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{place}{line}: {told(error).partition(' (')[0]}") from None
    found: list[str] = []
    for node in tree.body:
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                found.append(node.name)
            case ast.Assign(targets=[ast.Name(id=name)]):
                found.append(name)
            case ast.Import() | ast.ImportFrom():
                found += [alias.asname or alias.name for alias in node.names]
            case ast.Expr(value=ast.Constant()):
                pass
            case _:
                return None
    return None if "*" in found else tuple(found)


@cache
def _module(source: Source) -> ModuleType:
    """The file as a module; run once in a process."""
    name = f"ncpipe_own_{source.digest}"
    module = ModuleType(name)
    module.__file__ = str(source.file)
    sys.modules[name] = module  # where dataclasses and pickles look for it
    try:
        exec(compile(source.text, str(source.file), "exec"), vars(module))  # noqa: S102 - the user's own code
    except BaseException:
        del sys.modules[name]
        raise
    return module
