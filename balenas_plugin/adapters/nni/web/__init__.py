"""A search in NNI's web UI: as one trial of many, and as an experiment of its own."""
