#!/usr/bin/env python3
"""Draw the program's icon: `draw.py FOLDER` writes edgeembed.svg, PNG files of the usual sizes, .ico and .icns.

Vectors from one point to three others, on a dark tile. All formats are drawn from the geometry below. Needs
Pillow, which the extra `tray` installs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

GRID = 64
"""The geometry below is in units of a square of this size."""
MARGIN, CORNER = 2, 14
ORIGIN = (17, 47)
POINTS = ((24, 15), (48, 20), (50, 42))
LINE, DOT, ORIGIN_DOT = 4, 6.5, 5
TILE_COLOUR, LINE_COLOUR, POINT_COLOUR, ORIGIN_COLOUR = "#17324d", "#8fb8de", "#ffb454", "#ffffff"

PNG_SIZES = (16, 24, 32, 48, 64, 128, 256, 512)
OVERSAMPLING = 8
"""Pillow does not antialias; the icon is drawn larger by this factor and scaled down."""


def svg() -> str:
    """Return the icon as SVG."""
    side = GRID - 2 * MARGIN
    x, y = ORIGIN
    lines = "".join(f'\n    <line x1="{x}" y1="{y}" x2="{px}" y2="{py}"/>' for px, py in POINTS)
    dots = "".join(f'\n    <circle cx="{px}" cy="{py}" r="{DOT}"/>' for px, py in POINTS)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {GRID} {GRID}">\n'
        f'  <rect x="{MARGIN}" y="{MARGIN}" width="{side}" height="{side}" rx="{CORNER}" fill="{TILE_COLOUR}"/>\n'
        f'  <g stroke="{LINE_COLOUR}" stroke-width="{LINE}" stroke-linecap="round">{lines}\n  </g>\n'
        f'  <g fill="{POINT_COLOUR}">{dots}\n  </g>\n'
        f'  <circle cx="{x}" cy="{y}" r="{ORIGIN_DOT}" fill="{ORIGIN_COLOUR}"/>\n'
        "</svg>\n"
    )


def image(size: int) -> Image.Image:
    """Return the icon as pixels: RGBA, size x size, transparent around the tile."""
    scale = size * OVERSAMPLING / GRID
    canvas = Image.new("RGBA", (size * OVERSAMPLING,) * 2, (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    far = GRID - MARGIN
    draw.rounded_rectangle([MARGIN * scale, MARGIN * scale, far * scale, far * scale], CORNER * scale, fill=TILE_COLOUR)
    for point in POINTS:
        ends = [(x * scale, y * scale) for x, y in (ORIGIN, point)]
        draw.line(ends, fill=LINE_COLOUR, width=round(LINE * scale))
    for point in POINTS:
        _dot(draw, point, DOT, POINT_COLOUR, scale)
    _dot(draw, ORIGIN, ORIGIN_DOT, ORIGIN_COLOUR, scale)
    return canvas.resize((size, size), Image.Resampling.LANCZOS)


def _dot(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: str, scale: float) -> None:
    x, y = centre
    draw.ellipse([(x - radius) * scale, (y - radius) * scale, (x + radius) * scale, (y + radius) * scale], fill=colour)


def write(folder: Path) -> None:
    """Write the icon in all formats to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "edgeembed.svg").write_text(svg(), encoding="utf-8")
    images = {size: image(size) for size in PNG_SIZES}
    for size, drawn in images.items():
        drawn.save(folder / f"edgeembed-{size}.png")
    images[256].save(
        folder / "edgeembed.ico", append_images=list(images.values()), sizes=[(s, s) for s in PNG_SIZES if s <= 256]
    )
    image(1024).save(folder / "edgeembed.icns", append_images=list(images.values()))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
