"""The capacity plan of docs/scaling.md: what a cohort and a number of GPUs ask of disks, network, memory and head. Arithmetic; nothing runs."""

from __future__ import annotations

from dataclasses import dataclass

from common import markdown

from hepdist.ingest.write import GROUP_BYTES, GROUP_ROWS, SHARD_BYTES

STUDIES = (10**4, 10**6, 10**8)
GPUS = (8, 64, 256, 1024)
WINDOW_BYTES = 64 << 20
"""data.window_mib, over all workers; at least four global batches."""
AHEAD = 4
"""Windows of a worker that are in memory at a time: one that is used, two ahead, one being read."""
EXCHANGED = 2
"""Times its gradient's bytes that a worker sends in a ring all-reduce."""
SERIES_A_WORKER = 3
"""Of hepdist's numbers for Prometheus; rank 0 has four more."""


@dataclass(frozen=True)
class Kind:
    """A kind of study, and what a GPU does with it. The samples a second are an assumption, on the high side: they ask more of the rest."""

    name: str
    samples: int
    """Rows of a study."""
    row_bytes: int
    a_gpu: float
    """Samples a second of one GPU."""
    batch: int
    """Samples of a global batch, a GPU."""
    parameters: float


KINDS = (
    Kind("radiographs 1x512x512, uint8, ResNet-50", 1, 512 * 512, 800.0, 32, 24e6),
    Kind("CT in 60 bricks 1x96x160x160, int16 and mask, 3D U-Net", 60, 96 * 160 * 160 * 3, 8.0, 2, 30e6),
)


@dataclass(frozen=True)
class Measured:
    """On this machine, by scaling.py."""

    read_bytes_a_core: float
    save_bytes: float


def capacity(measured: Measured) -> str:
    """Two tables a kind: what the cohort is, and what the GPUs ask for."""
    parts = []
    for kind in KINDS:
        parts.append(f"### {kind.name}\n\n" + markdown(COHORT, [_cohort(kind, studies) for studies in STUDIES]))
        parts.append(markdown(CLUSTER, [_cluster(kind, gpus, measured) for gpus in GPUS]))
    return "\n\n".join(parts)


COHORT = ("studies", "samples", "bytes", "shards", "row groups", "manifest", "an epoch on 8 / 64 / 1,024 GPUs")
CLUSTER = (
    "GPUs", "global batch", "samples/s", "read, GB/s: all / a node of 8", "cores that read, a GPU", "memory of windows, a worker",
    "checkpoint", "written in", "share of time at one a 10 min", "gradients, GB/s a GPU", "head: series, polls/s",
)  # fmt: skip


def _cohort(kind: Kind, studies: int) -> list[str]:
    samples = studies * kind.samples
    group = max(1, min(GROUP_ROWS, GROUP_BYTES // kind.row_bytes))
    shard = max(1, SHARD_BYTES // (kind.row_bytes * group)) * group
    shards, groups = -(-samples // shard), -(-samples // group)
    epochs = " / ".join(_time(samples / kind.a_gpu / gpus) for gpus in (8, 64, 1024))
    # a shard's entry: path, sums and counts, and ten characters a row group (measured: 12 MB for 10^6 groups in 15,626 shards)
    return [
        f"{studies:,}",
        f"{samples:,}",
        _bytes(samples * kind.row_bytes),
        f"{shards:,}",
        f"{groups:,}",
        _bytes(shards * 300 + groups * 10),
        epochs,
    ]


def _cluster(kind: Kind, gpus: int, measured: Measured) -> list[str]:
    rate = kind.a_gpu * gpus
    stream = rate * kind.row_bytes
    batch = kind.batch * gpus
    window = max(WINDOW_BYTES, 4 * batch * kind.row_bytes) / gpus
    checkpoint = 12 * kind.parameters
    seconds = checkpoint / measured.save_bytes
    steps = kind.a_gpu / kind.batch
    gradients = EXCHANGED * 4 * kind.parameters * steps / 1e9
    return [
        f"{gpus:,}", f"{batch:,}", f"{rate:,.0f}", f"{stream / 1e9:,.2f} / {stream / gpus * min(8, gpus) / 1e9:.2f}",
        f"{kind.a_gpu * kind.row_bytes / measured.read_bytes_a_core:.2f}", _bytes(AHEAD * window), _bytes(checkpoint), f"{seconds:.1f} s",
        f"{seconds / 600:.1%}", f"{gradients:.2f}", f"{SERIES_A_WORKER * gpus + 4:,}, {gpus:,}",
    ]  # fmt: skip


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} PB"


def _time(seconds: float) -> str:
    for size, unit in ((86400 * 2, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / {'d': 86400, 'h': 3600, 'min': 60}[unit]:,.1f} {unit}"
    return f"{seconds:.1f} s"
