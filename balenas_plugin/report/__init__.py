"""Reports: one self-contained page about one run, or several side by side."""

from __future__ import annotations

from balenas_plugin.report.page import write_report

__all__ = ["write_report"]
