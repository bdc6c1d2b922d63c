"""Spot notices: a small process on each node that hears from the cloud that the machine is taken away, and tells Ray."""
