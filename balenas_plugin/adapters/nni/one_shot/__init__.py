"""The Lightning module that NNI's one-shot engine trains, and what it needs of an evaluator."""
