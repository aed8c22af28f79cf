r"""How scores of candidates are distributed, of which the largest wins: the laws behind every kind of posterior.

A search has learned a law for each label: of one independent random score for each of its K candidates. A choice is the
largest score, so densities and tails are all that its probability needs (see `strongest` for more than one):

* `NormalLaw`, of Gaussian logits (BaLeNAS);
* `GumbelLaw`, logits plus standard Gumbel noise, whose largest is distributed as their softmax (Gumbel 1954);
* `LogGammaLaw`, logarithms of gamma variables, which divided by their sum are a Dirichlet sample.

A candidate that was dropped has the location -inf. Densities, tails and probabilities are float64 on the CPU, in
natural logarithms.
"""

from balenas_plugin.bayes.laws._law import AT_ONCE, Law, joined, law_named
from balenas_plugin.bayes.laws.gumbel import GumbelLaw
from balenas_plugin.bayes.laws.log_gamma import LogGammaLaw
from balenas_plugin.bayes.laws.normal import NormalLaw

__all__ = ["AT_ONCE", "GumbelLaw", "Law", "LogGammaLaw", "NormalLaw", "joined", "law_named"]
