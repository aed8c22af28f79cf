"""Cut the central square out of an image and scale it: the first half of what turns a file into a network's input.

Exported networks carry the source of these functions with them (see `image_task`), so they need nothing but Pillow.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF data say that the camera was held, as 8-bit RGB, transparent pixels on white.

    Raises:
        ValueError: the range of its pixels is not known.
    """
    from contextlib import suppress

    from PIL import Image, ImageOps

    image.load()
    with suppress(Exception):  # EXIF data that cannot be read say nothing
        if image.getexif().get(0x0112, 1) != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip 16-bit grey at 255
        image = image.convert("I").point([(2 * value + 257) // 514 for value in range(65536)], "L")
    elif image.mode in ("I", "F"):
        raise ValueError(f"the range of its pixels is not known (Pillow's mode {image.mode}): save it in 8 bits")
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def central_square(image: Image.Image, size: int) -> Image.Image:
    """Return the central square of an image, scaled to `size` pixels a side by antialiased bilinear, as 8-bit RGB."""
    from PIL import Image

    # A JPEG can be decoded at 1/2, 1/4 or 1/8: much faster for photographs. Twice the size leaves the last step to the
    # antialiased filter. Other formats ignore it.
    image.draft(image.mode, (2 * size, 2 * size))
    rgb = upright_rgb(image)
    side = min(rgb.size)
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    # The filter sees the pixels beside the square, as if the whole image were scaled first and the square then cut out.
    return rgb.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def square_source() -> str:
    """Return the source of `central_square`, and of what it calls."""
    return f"{inspect.getsource(upright_rgb)}\n\n{inspect.getsource(central_square)}"
