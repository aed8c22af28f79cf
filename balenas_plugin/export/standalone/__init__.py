"""Write a network as one Python module that needs torch alone, and its weights."""

from __future__ import annotations

from balenas_plugin.export.standalone.writer import write_standalone

__all__ = ["write_standalone"]
