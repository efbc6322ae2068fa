"""A number plotted in its row: value, confidence interval, threshold and real-to-real reference on one small line.

A table of figures says whether a gate passed; the glyph beside it shows by how much.
"""

from collections.abc import Sequence

from meddiff_core.release.figures import INK, LINE, SYNTHETIC

WIDTH, HEIGHT, MARGIN = 150.0, 26.0, 8.0
FAILED = "#b3261e"


def interval_glyph(
    value: float | None,
    low: float | None,
    high: float | None,
    limit: float | None = None,
    reference: float | None = None,
    passed: bool = True,
) -> str:
    """An inline SVG. The bar is the interval, the dot the value, the tall line the threshold, the ring the reference.

    Empty for a figure that was not measured.
    """
    if value is None:
        return ""
    known = [number for number in (value, low, high, limit, reference) if number is not None]
    place = _Scale(known)
    colour = SYNTHETIC if passed else FAILED
    middle = HEIGHT / 2
    parts = [_line(MARGIN, middle, WIDTH - MARGIN, middle, LINE, 1)]
    if low is not None and high is not None:
        parts.append(_line(place(low), middle, place(high), middle, colour, 5, opacity=0.35))
    if limit is not None:
        parts.append(_line(place(limit), 3, place(limit), HEIGHT - 3, INK, 1.6))
    if reference is not None:
        parts.append(
            f'<circle cx="{place(reference):.1f}" cy="{middle}" r="4" fill="none" stroke="{INK}" stroke-width="1.2"/>'
        )
    parts.append(f'<circle cx="{place(value):.1f}" cy="{middle}" r="3.4" fill="{colour}"/>')
    return f'<svg class="mark" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" aria-hidden="true">{"".join(parts)}</svg>'


class _Scale:
    """Numbers to pixels, with the smallest and the largest near the ends."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.low, self.high = min(numbers), max(numbers)

    def __call__(self, number: float) -> float:
        span = self.high - self.low
        share = (number - self.low) / span if span > 0 else 0.5
        return MARGIN + 6 + share * (WIDTH - 2 * MARGIN - 12)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float, opacity: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}" stroke-opacity="{opacity}" stroke-linecap="round"/>'
    )
