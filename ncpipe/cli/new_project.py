"""The command ``ncpipe init``: a folder with the few files of a study of one's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ncpipe.system.errors import UserError
from ncpipe.system.files import write_text

FILES = ("Snakefile", "config.yaml", "mynet.py", "claims.py", "README.md", ".gitignore")
"""Files of a project; their templates lie beside this module, that of a hidden one without its dot."""
PROFILES = ("default", "slurm")
"""Profiles of the workflow, copied: Snakemake looks for them in the folder where it runs."""


def write_project(folder: Path) -> list[Path]:
    """Write the files of a project into a folder, which is made; none replaces another.

    Raises:
        UserError: the folder has files of these names, or is a file.
    """
    texts = project()
    taken = [name for name in texts if (folder / name).exists()]
    if taken:
        raise UserError(f"{folder} has {', '.join(taken)} already; name another folder, or move what is there")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder")
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def project() -> dict[str, str]:
    """Texts of the files of a project, by path."""
    package = files("ncpipe")
    texts = {name: (package / "cli/template" / name.lstrip(".")).read_text(encoding="utf-8") for name in FILES}
    for profile in PROFILES:
        path = f"profiles/{profile}/config.yaml"
        text = (package / "workflow" / path).read_text(encoding="utf-8")
        texts[path] = text.replace("workflow/profiles", "profiles")
    return texts
