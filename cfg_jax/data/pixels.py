"""Decoded images of any mode as pixels of one size."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_MODES = {1: "L", 3: "RGB"}
WHITE = (255, 255, 255)
LONGEST = 16
"""How often the short side goes into the long one, at most, where an image is resized."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation that EXIF knows."""

_SIDEWAYS = (5, 6, 7, 8)
"""Those that make height of width."""


def decoded(
    content: bytes,
    *,
    image_size: int | tuple[int, int],
    channels: int,
    background: Sequence[int] = WHITE,
    cut: bool = True,
) -> UInt8[np.ndarray, "height width {channels}"]:
    """The pixels of an image's file; see `to_pixels`.

    Raises:
      Exception: anything, where the file is damaged.
    """
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        return to_pixels(
            image, image_size=image_size, channels=channels, background=background, cut=cut
        )


def size_of(file: Any) -> tuple[int, int]:
    """Height and width of the image in an opened file, upright; its pixels are not decoded.

    Raises:
      Exception: anything, where the file is damaged.
    """
    with Image.open(file, formats=_FORMATS) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


def to_pixels(
    image: Image.Image,
    *,
    image_size: int | tuple[int, int],
    channels: int,
    background: Sequence[int] = WHITE,
    cut: bool = True,
) -> UInt8[np.ndarray, "height width {channels}"]:
    """Turns a decoded image into pixels of the wanted size and number of channels.

    The image is turned upright (EXIF, unless that is damaged), laid on the background where it is
    transparent, made grey or RGB, resized with an antialiasing bicubic filter until its short side
    is `image_size`, and cropped at the centre; beforehand to `LONGEST`, which bounds the memory.

    Args:
      image: of any mode and size.
      image_size: side of the square wanted, or height and width, which the image is made to cover;
        0 leaves the size as it is.
      channels: 1 (grey) or 3 (RGB).
      background: red, green and blue of what shows through.
      cut: whether to crop; without it the image covers the size, and reaches beyond on one side.

    Returns:
      The pixels, 0..255.

    Raises:
      OSError: the image cannot be decoded.
      ValueError: it has 32 bits a pixel, whose range no one can tell.
    """
    image.load()
    image = _opaque(_upright(image), background).convert(_MODES[channels])
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if image_size and image.size != (width, height):
        image = ImageOps.cover(_shortened(image), (width, height), Image.Resampling.BICUBIC)
        if cut:
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
    return np.asarray(image).reshape(image.height, image.width, channels)


def _shortened(image: Image.Image) -> Image.Image:
    """The middle of an image that is too long, with the same centre."""
    most = LONGEST * min(image.size)
    left, top = (max(0, (side - most) // 2) for side in image.size)
    if not left and not top:
        return image
    return image.crop((left, top, image.width - left, image.height - top))


def _orientation(image: Image.Image) -> int | None:
    """What EXIF says of how an image was held."""
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # Damaged EXIF raises anything, and the pixels are whole.
        return None
    return orientation if isinstance(orientation, int) else None


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    turn = None if orientation is None else _UPRIGHT.get(orientation)
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = image.info  # A transparent colour is among it.
    return turned


def _opaque(image: Image.Image, background: Sequence[int]) -> Image.Image:
    if image.mode in ("I", "F"):
        kind = "whole" if image.mode == "I" else "floating-point"
        raise ValueError(
            f"its pixels are {kind} numbers of 32 bits, whose range is not known: store it with 8 "
            "or 16 bits"
        )
    if image.mode.startswith("I;16"):  # convert() clips them where we want to scale.
        levels, clear = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray((levels >> 8).astype(np.uint8))
        if clear is not None:
            image.putalpha(Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8)))
    if not (set(image.getbands()) & {"A", "a"} or "transparency" in image.info):
        return image
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image.convert("RGBA"))
