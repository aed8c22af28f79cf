"""Second derivatives of a loss in the architecture: exact, by products, and through batch normalisation."""
