"""How templates are found and filled, and how a number reads in a text.

What a person wrote is text in every page and card, never markup: HTML is escaped, and so is what Markdown would take
for markup, since a hub shows the card as a page. Pages are self-contained: a content policy in each forbids the browser
to fetch anything, so that opening a report notifies nobody that it was opened.
"""

import math
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

THIN = "\u202f"
WRITTEN = {"auc": "AUC", "ms ssim": "MS-SSIM", "mm3": "mm³"}
"""Words of names that are written in their own way."""
ENTITIES = {ord(character): f"&#{ord(character)};" for character in "&<>\\*`[]|$~"}
"""What Markdown would take for markup, as HTML entities: they cannot be markup, and every reader of text knows them."""
BREAKS = re.compile(r"[\r\n\t\v\f\x85\u2028\u2029]+")
"""With a line break a text could begin a heading or another list."""
UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
"""One that could begin or end emphasis; inside a name it cannot."""


def render(template: str, **values: Any) -> str:
    """Fill a template of `release/templates`. HTML or Markdown is escaped; a missing value is an error."""
    return _environment(escaped=".html" in template).get_template(template).render(**values)


@cache
def _environment(escaped: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("meddiff_core.release"),
        autoescape=escaped,
        finalize=None if escaped else _as_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "percent": percent, "flat": flat, "humanise": humanise}
    return environment


def number(value: float | int | None) -> str:
    """At most three significant digits, thin spaces between thousands, a true minus sign."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        text = f"{value:,.0f}".replace(",", THIN)
    elif value == 0 or abs(value) >= 1e-3:
        digits = 2 - math.floor(math.log10(abs(value))) if value else 0
        text = f"{value:.{max(digits, 0)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{value:.2e}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """`0.123` as `12%`, and a small share not as nothing."""
    return "<1%" if 0 < share < 0.01 else f"{share:.0%}"


def flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of `key.sub` and value."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _plain(value)))
    return rows


def humanise(name: str) -> str:
    """A name of the program as words: `white_matter` is `white matter`, `core_mm3` is `core mm³`."""
    words = name.replace("_", " ").replace(":", ": ")
    return re.sub(rf"\b({'|'.join(WRITTEN)})\b", lambda found: WRITTEN[found[0]], words)


def markdown(text: str) -> str:
    """A text in Markdown, of which nothing is taken for markup: one line, also inside a table."""
    return UNDERSCORE.sub("&#95;", BREAKS.sub(" ", text).translate(ENTITIES))


def _as_markdown(value: Any) -> Any:
    return value if isinstance(value, Markup) else markdown(str(value))


def _plain(value: Any) -> str:
    if value is None or value == {} or value == []:
        return "–"
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    return str(value)
