"""What this machine has: versions, CPUs, GPUs, memory, shared memory, disk and a compiler; nothing here starts Ray."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from hepdist.doctor.check import Check

SHOWN = ("ray", "torch", "deepspeed", "monai", "pyarrow", "pydicom")
GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup")

WORKER_GIB = 1.5
"""Resident memory of one training worker before any data: Python, torch, DeepSpeed, Ray (measured 0.9 on CPU)."""
RAY_DISK_LIMIT = 0.95
"""Ray refuses to create objects when the disk of its temporary folder is fuller (local_fs_capacity_threshold)."""


def versions() -> list[Check]:
    """Python, hepdist and the packages that matter, each against what hepdist's own metadata asks for."""
    python = platform.python_version()
    new_enough = sys.version_info >= (3, 10)
    first = Check("python", python, "ok" if new_enough else "problem", "" if new_enough else "use Python 3.10 or newer")
    return [first, Check("hepdist", importlib.metadata.version("hepdist")), *map(_version, _required(SHOWN))]


def _required(names: tuple[str, ...]) -> list[Requirement]:
    declared = {r.name: r for r in map(Requirement, importlib.metadata.requires("hepdist") or [])}
    return [declared[name] for name in names]


def _version(required: Requirement) -> Check:
    fix = f"pip install '{required}' (or make with constraints.txt)"
    try:
        version = importlib.metadata.version(required.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(required.name, "not installed", "problem", fix)
    if not required.specifier.contains(version, prereleases=True):
        return Check(required.name, f"{version}, but hepdist needs {required.specifier}", "problem", fix)
    return Check(required.name, version)


def cpus() -> Check:
    """CPUs this process may use: by affinity and by the container's quota, not by what the host has."""
    usable, host = usable_cpus(), os.cpu_count() or 1
    found = f"{usable:g}" + (f" of the host's {host}" if usable < host else "")
    if usable < 2:
        return Check("CPUs", found, "warning", "two workers will share one CPU; use train.workers=1")
    return Check("CPUs", found)


def usable_cpus() -> float:
    """Affinity mask and cgroup quota (v2 cpu.max, v1 cpu.cfs_quota_us), whichever is less."""
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, period = (_words(CGROUP / "cpu.max") + ["max", "max"])[:2]
    if quota == "max":
        quota = next(iter(_words(CGROUP / "cpu/cpu.cfs_quota_us")), "-1")
        period = next(iter(_words(CGROUP / "cpu/cpu.cfs_period_us")), "100000")
    return min(allowed, int(quota) / int(period)) if int(quota) > 0 else allowed


def gpus() -> Check:
    """The devices torch can use, against those the driver knows."""
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        named = ", ".join(f"{d.name} ({d.total_memory / GIB:.0f} GiB, sm_{d.major}{d.minor})" for d in devices)
        return Check("GPUs", f"{len(devices)}: {named}; CUDA {torch.version.cuda}")
    known = _driver_gpus()
    if known:
        fix = "install torch with CUDA for this driver (https://pytorch.org/get-started), and check CUDA_VISIBLE_DEVICES"
        return Check("GPUs", f"{len(known)} by nvidia-smi ({known[0]}), but torch {torch.__version__} can't use them", "warning", fix)
    return Check("GPUs", "none; training runs on the CPUs")


def _driver_gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def memory() -> Check:
    """Memory this process may use: the machine's, or the container's limit."""
    total, free = usable_memory()
    found = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free"
    workers = int(free / GIB // WORKER_GIB) - 1  # one worker's worth goes to Ray and the driver
    if workers < 1:
        return Check("memory", found, "problem", f"free at least {2 * WORKER_GIB:.0f} GiB: Ray and one worker need them")
    if workers < 2:
        return Check("memory", found, "warning", "room for one worker only; use train.workers=1")
    return Check("memory", found)


def usable_memory() -> tuple[int, int]:
    """(total, free) bytes, by the cgroup's limit (v2 memory.max, v1 memory.limit_in_bytes) where it is lower."""
    machine = psutil.virtual_memory()
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        bytes_limit = next(iter(_words(CGROUP / limit)), "max")
        if bytes_limit != "max" and int(bytes_limit) < machine.total:
            usage = next(iter(_words(CGROUP / used)), "0")
            return int(bytes_limit), min(machine.available, int(bytes_limit) - int(usage))
    return machine.total, machine.available


def object_store() -> Check:
    """Room for Ray's object store: 30 % of memory in /dev/shm, or Ray falls back to a file on disk."""
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return Check("object store", "no /dev/shm; Ray keeps objects in files")
    wanted, there = int(usable_memory()[0] * 0.3), shutil.disk_usage(shm)
    found = f"/dev/shm {there.free / GIB:.1f} GiB free; Ray would take up to {wanted / GIB:.1f}"
    if there.free < min(wanted, 2 * GIB):
        return Check("object store", found, "warning", "Ray falls back to slow files; start the container with --shm-size=4g or more")
    return Check("object store", found)


def disk() -> Check:
    """The working folder, where runs and cohorts go, and Ray's temporary folder."""
    here, ray_folder = shutil.disk_usage("."), shutil.disk_usage(_existing(ray_temp()))
    share = ray_folder.used / max(ray_folder.used + ray_folder.free, 1)
    found = f"{here.free / GIB:.0f} GiB free here; {ray_temp()} is {share:.0%} full"
    if share > RAY_DISK_LIMIT:
        return Check("disk", found, "problem", f"Ray stops at {RAY_DISK_LIMIT:.0%}: free some space, or set RAY_TMPDIR to a larger disk")
    if here.free < 5 * GIB:
        return Check("disk", found, "warning", "checkpoints of 3D models take gigabytes: free some space, or set runs= to a larger disk")
    return Check("disk", found)


def ray_temp() -> Path:
    """The folder under which Ray keeps sessions and its address file (ray._common.utils.get_default_ray_temp_dir)."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def compiler() -> Check:
    """A C++ compiler: hepdist trains without one; torch.compile and DeepSpeed's fused kernels need it."""
    found = next((c for c in (os.environ.get("CXX"), "g++", "clang++", "c++") if c and shutil.which(c)), None)
    if found:
        return Check("C++ compiler", found)
    return Check("C++ compiler", "none; only train.compile=true needs one", "warning", "apt-get install g++ (or your system's like)")


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.exists())


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []
