"""Cluster files: what `hepdist cluster check` and `hepdist cluster write` do; overlays, IAM policies and prices lie beside."""
