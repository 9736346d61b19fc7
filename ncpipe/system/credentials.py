"""Passwords and tokens: where they may not stand, and what is shown in their place."""

from __future__ import annotations

import base64
import os
import re
from urllib.parse import urlsplit

PARAMETER = re.compile(r"(?i)((?:password|passwd|pwd|token|secret|api_?key)=)[^&\s'\"]+")
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PGPASSWORD",
    "MYSQL_PWD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "DATABRICKS_TOKEN",
)
"""Variables of the environment that MLflow and its drivers read."""


def has_password(uri: str) -> bool:
    """Whether a URI holds a password: after the user's name, or among its parameters."""
    try:
        password = urlsplit(uri).password
    except ValueError:  # of a broken address
        password = None
    return password is not None or PARAMETER.search(uri) is not None


def _secrets() -> list[str]:
    """Secrets of the environment, also as HTTP's basic authentication sends them."""
    named = [secret for name in VARIABLES if (secret := os.environ.get(name))]
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    return [*named, base64.b64encode(f"{user}:{password}".encode()).decode()] if password else named


def redacted(text: str) -> str:
    """``text`` without the credentials of any URI in it, and without the secrets of the environment.

    Of a URI that is what stands before @, and secrets among the parameters.
    """
    for secret in _secrets():
        text = text.replace(secret, "***")
    text = re.sub(r"//[^\s'\"]*@", "//***@", text)
    return PARAMETER.sub(r"\1***", text)
