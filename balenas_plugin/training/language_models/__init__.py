"""Language models: the hidden states that are carried through a text, and how such a network is trained."""
