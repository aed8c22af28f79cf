"""Read pickles without running any code that is in them."""
