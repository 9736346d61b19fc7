"""Python files of a user's own: told from names of plugins, looked at, loaded, and their mistakes in one line."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ncpipe.system.errors import UserError
from ncpipe.system.files import content_digest

ENDING = ".py"


def is_own(name: object) -> bool:
    """Whether a name is the path of a file, and none of a plugin."""
    return isinstance(name, str) and name.endswith(ENDING)


def short_name(name: str) -> str:
    """The name of what a file holds, that of the file without its ending; other names are as they are."""
    return Path(name).stem if is_own(name) else name


def name_mistake(path: str) -> str | None:
    """Why a path cannot name what its file holds, or None: it stands in names of files and in ids."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", Path(path).stem):
        return None
    return "the name of an own file may hold letters, digits, '-' and '_', 64 at most, before '.py'"


def names_in(path: str, where: str) -> set[str]:
    """Names that a file defines or imports at its top, of which nothing is run.

    Raises:
        UserError: no such file, or no Python, told as of the setting ``where``.
    """
    try:
        tree = ast.parse(Path(path).expanduser().read_bytes(), path)
    except OSError as error:
        raise UserError(f"{where}: no file {path!r}: {error.strerror}; its path is from the working folder") from None
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UserError(f"{where}: {path}{line}: {getattr(error, 'msg', error)}") from None
    return {name for statement in tree.body for name in _defined(statement)}


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in statement.names)
    else:
        yield from (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))


def load_own(path: str) -> ModuleType:
    """The module of a file, run once for a content; what it raises is a ``UserError``."""
    with running(path):
        whole = Path(path).expanduser().resolve(strict=True)
        return _loaded(path, whole, content_digest(whole))


@cache
def _loaded(path: str, whole: Path, digest: str) -> ModuleType:
    name = f"own_{digest[:16]}_{short_name(path)}"
    spec = spec_from_loader(name, _Source(name, str(whole)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the names in annotations
    spec.loader.exec_module(module)
    return module


class _Source(SourceFileLoader):
    """Without bytecode beside the file, which would be taken for that of an edit in the same second."""

    def path_stats(self, path: Any) -> NoReturn:
        raise OSError


@contextmanager
def running(path: str) -> Iterator[None]:
    """Around what a file of a user's own does: an exception is a ``UserError`` that names the file and its line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        whole, line, place = str(Path(path).expanduser().resolve()), "", error.__traceback__
        while place is not None:
            if place.tb_frame.f_code.co_filename == whole:
                line = f", line {place.tb_lineno}"
            place = place.tb_next
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        more = "NCPIPE_TRACEBACK=1 shows where from"
        raise UserError(f"{path}{line}: {reason}; {more}") from error
