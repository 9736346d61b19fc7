"""Definitions of metrics, written in matplotlib's mathtext for the figures, as HTML for the page."""

from __future__ import annotations

import re
from html import escape

SYMBOLS = {
    "Sigma": "Σ", "mu": "μ", "lambda": "λ", "ell": "ℓ", "nabla": "∇", "top": "⊤", "Vert": "‖", "neq": " ≠ ",
    "Lambda": "Λ", "theta": "θ", "sqrt": "√",
    "langle": "⟨", "rangle": "⟩", "cos": "cos ", "log": "log ", "exp": "exp ", ",": " ",
}  # fmt: skip
COMMAND = re.compile(r"\\([A-Za-z]+|,)\s*")
SCRIPT = re.compile(r"([_^])(?:\{([^{}]*)\}|(.))")


def as_html(definition: str) -> str:
    """A definition of ``figures.definitions`` as HTML: ``$\\Sigma_W^{-1/2}$`` as Σ with what stands below and above.

    A command that has no symbol here, as in the label of a user's metric, stands as a word.
    """
    parts = definition.split("$")
    html = "".join(_formula(part) if i % 2 else escape(part) for i, part in enumerate(parts))
    return re.sub(" {2,}", " ", html)


def _formula(text: str) -> str:
    text = re.sub(r"\\mathrm\{(\w+)\}(?:\\,)?(?!\()", r"\1 ", escape(text))
    text = re.sub(r"\\mathrm\{(\w+)\}", r"\1", text)
    text = re.sub(r"\\bar\s*(\w)", "\\1\u0304", text)
    text = SCRIPT.sub(_script, COMMAND.sub(_symbol, text))
    return text.translate({ord("-"): "−", ord("{"): "(", ord("}"): ")"})


def _symbol(match: re.Match[str]) -> str:
    return SYMBOLS.get(match[1], f"{match[1]} ")


def _script(match: re.Match[str]) -> str:
    tag = "sub" if match[1] == "_" else "sup"
    return f"<{tag}>{match[2] or match[3]}</{tag}>"
