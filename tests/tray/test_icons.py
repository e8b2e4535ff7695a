"""The icon's pixels: sharp at every size, different for every state, visible on light and dark panels."""

from __future__ import annotations

import itertools

import pytest

from edgeembed.tray.state import IconState, Theme

pytest.importorskip("PIL", reason="Pillow is not installed; the extra `tray` brings it")

from edgeembed.tray.icons import SIZES, draw, scalable

THEMES: tuple[Theme, ...] = ("light", "dark")


@pytest.mark.parametrize("size", SIZES)
def test_bars_lie_on_whole_pixels(size: int) -> None:
    for theme in THEMES:
        alphas = {alpha for _, alpha in enumerate(draw(IconState.READY, size, theme).getchannel("A").histogram()) if alpha}
        assert len(alphas) == 2, "edges between pixels are blurred"
        image = draw(IconState.READY, size, theme)
        box = image.getbbox()
        assert box is not None and image.size == (size, size)
        assert box[2] - box[0] >= 0.75 * size and box[3] - box[1] >= 0.75 * size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", THEMES)
def test_states_differ_in_shape_not_only_in_colour(size: int, theme: Theme) -> None:
    for one, other in itertools.combinations(IconState, 2):
        shapes = [
            draw(state, size, theme).getchannel("A").point(lambda alpha: 255 * (alpha > 127)) for state in (one, other)
        ]
        different = sum(a != b for a, b in zip(shapes[0].tobytes(), shapes[1].tobytes(), strict=True))
        assert different >= 0.02 * size * size, f"{one} and {other} look alike"


def test_bars_contrast_with_the_panel() -> None:
    def brightness(theme: Theme) -> float:
        image = draw(IconState.READY, 32, theme)
        x = next(x for x in range(32) if image.getpixel((x, 28))[3] == 255)
        return sum(image.getpixel((x, 28))[:3]) / 3

    assert brightness("light") < 80 and brightness("dark") > 220


def test_toolkits_that_resize_get_a_redrawn_icon() -> None:
    asked, drawn = scalable(IconState.BUSY, 64, "dark").resize((22, 22)), draw(IconState.BUSY, 22, "dark")
    assert asked.getchannel("A").tobytes() == drawn.getchannel("A").tobytes()
    tall = scalable(IconState.READY, 64, "dark", opaque=True).resize((24, 32), 1)
    assert tall.size == (24, 32)
    assert tall.getchannel("A").getextrema() == (255, 255)
