"""The first images of a schedule as one small picture, to look at."""

from __future__ import annotations

import io
import math

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

SHOWN = 16  # images
SMALL, LARGE = 64, 128  # pixels per side: smaller images are enlarged, larger ones reduced


def grid(images: Float[Tensor, "n c h w"]) -> bytes:
    """A PNG of the first 16 images (of 1 or 3 channels, in [0, 1]), four in a row, of less than 1 MiB."""
    tiles = [_tile(image) for image in images[:SHOWN]]
    columns = min(4, len(tiles))
    width, height = tiles[0].size
    sheet = Image.new(tiles[0].mode, (columns * width, math.ceil(len(tiles) / columns) * height))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, i // columns * height))
    written = io.BytesIO()
    sheet.save(written, "PNG")
    return written.getvalue()


def _tile(image: Float[Tensor, "c h w"]) -> Image.Image:
    pixels = (image.clamp(0.0, 1.0) * 255.0).round().byte().numpy()
    tile = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))
    side = max(tile.size)
    if side < SMALL:
        times = SMALL // side
        return tile.resize((tile.width * times, tile.height * times), Image.Resampling.NEAREST)
    tile.thumbnail((LARGE, LARGE))
    return tile
