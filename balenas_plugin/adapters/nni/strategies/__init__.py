"""Strategies for NNI's `NasExperiment`, and what NNI lacks around them."""
