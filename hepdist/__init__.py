"""hepdist: distributed training for medical imaging, from hospital files to honestly evaluated models."""

__version__ = "0.1.0"
