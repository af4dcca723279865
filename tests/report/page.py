"""Reading a written page back: it is well-formed XML, so the standard parser serves."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from xml.etree.ElementTree import Element

from bench.published import Published
from bench.report import html
from bench.report.model import build_report
from bench.store import Store

NOTHING = Published((), {})


def written(store: Store, published: Published = NOTHING) -> str:
    """The page of a store's records."""
    return html.write(build_report(store, published))


def parsed(page: str) -> Element:
    """The document's root."""
    return ElementTree.fromstring(page)


def words(element: Element) -> str:
    """All text below an element, spaces collapsed."""
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def with_id(root: Element, name: str) -> Element:
    """The element with an id."""
    (found,) = [element for element in root.iter() if element.get("id") == name]
    return found


def tables(element: Element, kind: str) -> list[Element]:
    """Tables of a kind below an element, in order."""
    return [table for table in element.iter("table") if table.get("class") == kind]


def rows(table: Element) -> list[dict[str, Element]]:
    """The data rows: column heading -> cell."""
    heads = [words(th) for th in table.findall("./thead/tr/th")]
    lines = [tr for tr in table.findall("./tbody/tr") if "band" not in (tr.get("class") or "")]
    return [dict(zip(heads, list(tr), strict=True)) for tr in lines]


def row(table: Element, name: str) -> dict[str, Element]:
    """The data row whose first cell reads `name`."""
    (found,) = [line for line in rows(table) if words(next(iter(line.values()))) == name]
    return found


def texts(line: dict[str, Element]) -> dict[str, str]:
    """A row's cells as text."""
    return {head: words(cell) for head, cell in line.items()}
