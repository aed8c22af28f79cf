"""Supernets of NNI: their parameters, their decisions, and how they compute."""
