"""The phantom cohort: X-rays, CTs and medical records of patients who don't exist, with the best reachable score known."""

from hepdist.phantom.bayes import BayesScore, bayes_scores
from hepdist.phantom.cohort import PhantomSummary, write_phantom

__all__ = ["BayesScore", "PhantomSummary", "bayes_scores", "write_phantom"]
