"""Search over families, shapes and learning rates with Ray Tune; a trial is a training run (docs/tuning.md)."""
