"""Normalisation, its inverse, and random augmentation of batches on the worker's device, in pure torch."""

from hepdist.augment.augment import augment
from hepdist.augment.normalise import denormalise, normalise

__all__ = ["augment", "denormalise", "normalise"]
