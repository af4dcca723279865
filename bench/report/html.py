"""The report as one self-contained page: style, figures and images inside, nothing loaded, no script needed."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from bench.report import text
from bench.report.figures import BASELINE_STYLE, COLOURS
from bench.report.model import Report

_MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",  # circle
    "M-3.6-3.6h7.2v7.2h-7.2Z",  # square
    "M0-5L5 0L0 5L-5 0Z",  # diamond
    "M0-4.8L4.6 3.4H-4.6Z",  # triangle
    "M0 4.8L4.6-3.4H-4.6Z",  # triangle, point down
)
_DASHES = ("none", "7 4", "2 3")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff\ud800-\udfff]")


def write(report: Report) -> str:
    """The page; every text from a record is escaped. The page is well-formed XML too."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": text.percent, "count": text.count, "metric": text.metric_label}
    return environment.get_template("page.html.j2").render(
        report=report,
        style_of=_style_of,
        markers=_MARKERS,
        checkpoints=text.CHECKPOINT_LABELS,
        longest_gallery=max((len(view.gallery.queries) for view in report.views if view.gallery), default=0),
        css=_template("page.css"),
        script=_template("page.js"),
    )


def _template(name: str) -> str:
    return (resources.files("bench.report") / "templates" / name).read_text("utf-8")


def _printable(value: Any) -> Any:
    """Text without control characters, which a traceback may hold and no page may."""
    return _CONTROL.sub("\ufffd", value) if type(value) is str else value


def _style_of(number: int) -> dict[str, Any]:
    """Colour class, marker and dash pattern of a style number."""
    if number == BASELINE_STYLE:
        return {"colour": "neutral", "marker": 0, "dash": "none"}
    return {
        "colour": f"k{number % COLOURS}",
        "marker": number % len(_MARKERS),
        "dash": _DASHES[number // COLOURS % len(_DASHES)],
    }
