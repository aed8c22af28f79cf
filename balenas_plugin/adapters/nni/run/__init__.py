"""Searches from a config: built, run, and read again."""
