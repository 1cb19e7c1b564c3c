"""HTML pages of reports, which a browser opens from a folder: templates whose values are text, whatever is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sounding.utils.libraries import importing
from sounding.utils.messages import printable

STYLE = Path(__file__).parent  # index.css, which all pages share


def render(template: Path, **values: Any) -> bytes:
    """A page in UTF-8. Values are escaped; the filter `printable` makes those from outside one line that shows."""
    with importing("jinja2"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, STYLE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    return environment.get_template(template.name).render(**values).encode("utf-8", "backslashreplace")
