"""How a mixed operation computes its candidates, one way a file."""
