"""`hepdist doctor`: what this machine or cluster has, whether training can run on it, and the fix for what is missing."""

from __future__ import annotations

from hepdist.doctor.check import Check, can_train, table
from hepdist.doctor.cluster import address_file, ray_cluster
from hepdist.doctor.dicom import decoders
from hepdist.doctor.engine import deepspeed_engine
from hepdist.doctor.machine import compiler, cpus, disk, gpus, memory, object_store, versions

__all__ = ["Check", "can_train", "examine", "table"]


def examine() -> list[Check]:
    """All checks, the quick ones first; about 10 seconds, most of it one real DeepSpeed engine."""
    return [
        *versions(),
        cpus(),
        gpus(),
        memory(),
        object_store(),
        disk(),
        *decoders(),
        compiler(),
        address_file(),
        *ray_cluster(),
        deepspeed_engine(),
    ]
