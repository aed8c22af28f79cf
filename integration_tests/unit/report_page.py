"""The page of a report as a test reads it: its elements, their attributes, its text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from balenas_plugin.report import drawings, write_report
from balenas_plugin.report.plots import Picture

PICTURE = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'

VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its text; fails if an element is not closed."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(*folders: Path, **options: Any) -> tuple[Page, str]:
    output = folders[0].parent / "page.html"
    write_report(folders, output, **options)
    source = output.read_text(encoding="utf-8")
    return Page(source), source


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every picture be an empty one: drawing takes most of a report's time."""
    monkeypatch.setattr(Picture, "render", lambda self, kind: PICTURE)
    monkeypatch.setattr(drawings, "_rendered", lambda draw: (PICTURE, lambda: PICTURE))
