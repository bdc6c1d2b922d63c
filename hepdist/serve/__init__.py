"""Predictions over HTTP: a small guarded API before the Predictor, run by Ray Serve; keeps nothing of what it is sent."""
