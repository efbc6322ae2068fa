"""One colour per label, the same in viewers, reports and metadata.

The first ten can be distinguished by most colour-blind readers; more follow by the golden angle.
"""

import colorsys

Colour = tuple[int, int, int]

FIRST: tuple[Colour, ...] = (
    (68, 170, 153),
    (221, 170, 51),
    (204, 102, 119),
    (136, 204, 238),
    (170, 68, 153),
    (153, 153, 51),
    (102, 119, 204),
    (238, 136, 102),
    (17, 119, 51),
    (187, 187, 187),
)


def label_colours(count: int) -> list[Colour]:
    """RGB, 0 to 255, for label values 1 to `count`."""
    return [FIRST[n] if n < len(FIRST) else _golden(n) for n in range(count)]


def _golden(position: int) -> Colour:
    hue, lightness = (position * 0.618034) % 1, (0.45, 0.6, 0.72)[position % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.55)
    return round(red * 255), round(green * 255), round(blue * 255)
