"""The icon, drawn at its display size: four bars, like the components of a vector, and a badge for the state.

States differ in shape, not only in colour: a dot (busy), an open ring (loading), two bars (paused), a triangle (degraded),
grey bars with a stroke through them (stopped).
"""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageChops, ImageDraw

from edgeembed.tray.state import IconState, Theme

Colour = tuple[int, int, int, int]

SIZES = (16, 20, 22, 24, 32, 48, 64)
_OVERSAMPLING = 8
"""Badges are drawn so many times larger and averaged; bars lie on whole pixels and need no averaging."""
_HEIGHTS = (0.45, 0.95, 0.65, 0.80)
_INK: dict[Theme, Colour] = {"light": (30, 41, 59, 255), "dark": (241, 245, 249, 255)}
_GREY: dict[Theme, Colour] = {"light": (148, 158, 172, 255), "dark": (120, 130, 145, 255)}
_BACKGROUND: dict[Theme, Colour] = {"light": (240, 240, 240, 255), "dark": (24, 26, 30, 255)}
_BADGES: dict[IconState, Colour] = {
    IconState.BUSY: (34, 150, 243, 255),
    IconState.LOADING: (34, 150, 243, 255),
    IconState.PAUSED: (245, 166, 35, 255),
    IconState.DEGRADED: (235, 120, 20, 255),
    IconState.STOPPED: (220, 60, 60, 255),
}


def draw(state: IconState, size: int, theme: Theme) -> Image.Image:
    """Return the icon of a state as an RGBA image of size x size pixels."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    ink = _GREY[theme] if state in (IconState.STOPPED, IconState.PAUSED) else _INK[theme]
    _bars(ImageDraw.Draw(image), size, ink)
    if state is IconState.READY:
        return image
    fine = Image.new("RGBA", (size * _OVERSAMPLING, size * _OVERSAMPLING), (0, 0, 0, 0))
    hole = Image.new("L", fine.size, 0)
    _badge(ImageDraw.Draw(fine), ImageDraw.Draw(hole), state, size * _OVERSAMPLING)
    # A gap between bars and badge keeps the badge visible.
    around = ImageChops.invert(hole.resize((size, size), Image.Resampling.BOX))
    image.putalpha(ImageChops.multiply(image.getchannel("A"), around))
    # _shrunk keeps the colours of transparent pixels out of the edges.
    image.alpha_composite(_shrunk(fine, size))
    return image


def scalable(state: IconState, size: int, theme: Theme, *, opaque: bool = False) -> Image.Image:
    """Return an icon whose `resize`, which toolkits call, draws it again instead of resampling it.

    opaque: for toolkits without transparency: `resize` adds the background of a panel.
    """
    image = draw(state, size, theme)

    def resize(wanted: tuple[int, int], *_arguments: Any, **_options: Any) -> Image.Image:
        side = min(wanted)
        whole = Image.new("RGBA", wanted, _BACKGROUND[theme] if opaque else (0, 0, 0, 0))
        whole.alpha_composite(draw(state, side, theme), ((wanted[0] - side) // 2, (wanted[1] - side) // 2))
        return whole

    setattr(image, "resize", resize)  # noqa: B010 - mypy refuses an assignment to a method
    return image


def _bars(pen: ImageDraw.ImageDraw, size: int, ink: Colour) -> None:
    """Draw the bars on whole pixels: edges between pixels blur small icons."""
    wide = max(2, round(size * 0.16))
    gap = max(1, (size - 4 * wide) // 5)
    left = (size - 4 * wide - 3 * gap) // 2
    foot = size - max(1, size // 16)
    for number, height in enumerate(_HEIGHTS):
        x = left + number * (wide + gap)
        top = foot - max(2, round(height * (foot - size // 16)))
        pen.rectangle((x, top, x + wide - 1, foot - 1), fill=ink)


def _badge(pen: ImageDraw.ImageDraw, hole: ImageDraw.ImageDraw, state: IconState, size: int) -> None:
    colour = _BADGES[state]
    if state is IconState.STOPPED:
        ends = (size * 0.08, size * 0.92, size * 0.92, size * 0.08)
        hole.line(ends, fill=255, width=round(size * 0.24))
        pen.line(ends, fill=colour, width=round(size * 0.11))
        return
    radius, margin = size * 0.24, size * 0.07
    x = y = size - radius
    hole.ellipse((x - radius - margin, y - radius - margin, x + radius + margin, y + radius + margin), fill=255)
    box = (x - radius, y - radius, x + radius, y + radius)
    if state is IconState.BUSY:
        pen.ellipse(box, fill=colour)
    elif state is IconState.LOADING:
        pen.arc(box, -60, 210, fill=colour, width=round(radius * 0.5))
    elif state is IconState.PAUSED:
        for side in (-1, 1):
            middle, half, tall = x + side * radius * 0.5, radius * 0.28, radius * 0.85
            pen.rectangle((middle - half, y - tall, middle + half, y + tall), fill=colour)
    else:
        pen.polygon([(x, y - radius), (x + radius, y + radius * 0.85), (x - radius, y + radius * 0.85)], fill=colour)


def _shrunk(fine: Image.Image, size: int) -> Image.Image:
    alpha = fine.getchannel("A").resize((size, size), Image.Resampling.BOX)
    colours = fine.convert("RGBa").resize((size, size), Image.Resampling.BOX).convert("RGBA")
    colours.putalpha(alpha)
    return colours
