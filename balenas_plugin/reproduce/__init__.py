"""The paper's tables and figures, searched again: which searches they need, what was found, and how sure it is."""
