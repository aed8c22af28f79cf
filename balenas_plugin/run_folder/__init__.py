"""The folder of a run: what is in it, where it lies, and who may write there."""

from balenas_plugin.run_folder.folder import RunFolder, other_run, run_identity

__all__ = ["RunFolder", "other_run", "run_identity"]
