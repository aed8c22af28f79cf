"""How a proxy is evaluated: on a borrowed network, with or without its normalisations, in numbers of any size."""
