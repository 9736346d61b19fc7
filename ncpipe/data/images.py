"""A picture as networks get it: upright, in colours, on white, of 8 bits, of one size."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

NOT_READABLE = (OSError, SyntaxError, ValueError, RuntimeError, struct.error, Image.DecompressionBombError)
"""What Pillow raises at files that are no whole images."""


def decode(content: bytes, size: tuple[int, int], bits: int | None = None) -> PilImage:
    """An encoded image as RGB of ``size``, height and width: cropped to the centre and resized where needed.

    It is turned upright as its EXIF says, and what is transparent is laid on white. Values of more than 8 bits are
    scaled from ``bits``; None: from the fewest that hold this image's. Raises one of ``NOT_READABLE``.
    """
    image: PilImage = Image.open(io.BytesIO(content))
    stored = str(getattr(image, "tile", ""))  # how, which is forgotten once it is loaded
    image.load()
    with suppress(*NOT_READABLE, KeyError, TypeError):  # damaged EXIF, which no viewer minds
        ImageOps.exif_transpose(image, in_place=True)
    values = _deep_values(image)
    if values is not None:
        bits = bits or _bits(values)
        image = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its values are of mode {image.mode!r}, not of 8 or 16 bits")
    elif (";16" in stored or "65535" in stored) and np.asarray(image.convert("RGB")).max() < 16:
        # Of colours of 16 bits Pillow keeps the upper 8.
        raise ValueError("its colours use the lower 12 of 16 bits, of which the upper 8 are read: save it with 8")
    image = _on_white(image)
    return image if image.size == size[::-1] else ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)


def bits_of(stream: IO[bytes]) -> int:
    """The fewest bits that hold the values of a grey image stored with more than 8; of others the header alone is
    read, and they have 8."""
    values = _deep_values(Image.open(stream))
    return 8 if values is None else _bits(values)


def _bits(values: np.ndarray) -> int:
    return max(8, int(values.max()).bit_length())


def _deep_values(image: PilImage) -> np.ndarray | None:
    """Values of a grey image of more than 8 bits, (H, W) of whole numbers up to 65,535; None of others."""
    # Of a PGM of more than 8 bits Pillow makes 32, scaled from its largest possible value to 65,535.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image)
    return None


def _on_white(image: PilImage) -> PilImage:
    """In RGB; transparent pixels and colours, of palettes too, as on paper."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
