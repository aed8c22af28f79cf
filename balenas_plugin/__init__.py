"""BaLeNAS."""
