"""`hepdist inspect`: what a cohort holds, what was left out and why, and whether its files are what the manifest says."""

from hepdist.inspect.facts import Facts, gather
from hepdist.inspect.page import write_page
from hepdist.inspect.sections import Section, counts, render, sections

__all__ = ["Facts", "Section", "counts", "gather", "render", "sections", "write_page"]
