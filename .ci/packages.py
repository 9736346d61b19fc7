"""Packages by uv, in a tenth of pip's time: .venv/bin/python .ci/packages.py install|compile ARGUMENTS of `uv pip`.

They come from where pip is configured to take them. Where uv is not to be had, or fails, pip installs.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
OF_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""Settings of pip that say where packages are, by uv's variable for them."""


def settings_of_pip(listed: str) -> dict[str, str]:
    """Variables for uv from what `pip config list` prints: a command's settings prevail over all commands', the
    environment's over both."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for scope, key, value in re.findall(r"^(global|install|:env:)\.([\w-]+)=(.+)$", listed, flags=re.MULTILINE):
        if key in OF_UV:
            found[scope][OF_UV[key]] = " ".join(ast.literal_eval(value).split())
    merged = found["global"] | found["install"] | found[":env:"]
    if "UV_FIND_LINKS" in merged:
        merged["UV_FIND_LINKS"] = merged["UV_FIND_LINKS"].replace(" ", ",")
    return {"UV_INDEX_STRATEGY": "unsafe-best-match"} | merged


def by_uv(command: str, arguments: list[str]) -> bool:
    """Whether uv has done it."""
    if find_spec("uv") is None:
        pin = re.findall(r"^uv==.*$", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
        if subprocess.run([*PIP, "install", "--quiet", *pin], check=False).returncode:
            return False
    configured = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    uv = [sys.executable, "-m", "uv", "pip", command, "--quiet", "--python", sys.executable, *arguments]
    return subprocess.run(uv, env=settings_of_pip(configured) | os.environ, check=False).returncode == 0


def main(command: str, *arguments: str) -> int:
    if by_uv(command, list(arguments)):
        return 0
    if command != "install":
        return 1
    print("set-up: uv did not install, so pip does, which takes some minutes", flush=True)
    # Modules are compiled when they are imported, the fifth of them that ever are.
    return subprocess.run([*PIP, "install", "--quiet", "--no-compile", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
