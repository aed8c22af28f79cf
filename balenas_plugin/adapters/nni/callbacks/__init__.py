"""Lightning callbacks of a search: checkpoint, diagnostics, plan, progress."""
