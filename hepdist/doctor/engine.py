"""Whether DeepSpeed can run here: one real engine with one parameter, in a process of its own, takes one step."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from hepdist.doctor.check import Check

PROBE = "hepdist.doctor.probe"
TIMEOUT_S = 180


def deepspeed_engine() -> Check:
    """Run the probe and read its verdict; a crash, a hang or a missing package is a row, never an end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LOCAL_RANK": "0"}
    try:
        answer = subprocess.run(
            [sys.executable, "-m", PROBE], capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return Check(
            "DeepSpeed engine", f"gave no answer in {TIMEOUT_S} s", "problem", f"see where it hangs with: LOCAL_RANK=0 python -m {PROBE}"
        )
    lines = answer.stdout.strip().splitlines()
    if answer.returncode == 0 and lines:
        facts = json.loads(lines[-1])
        return Check("DeepSpeed engine", f"one step on {facts['device']} with {facts['backend']}")
    reason = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1].removeprefix("[rank0]: ")
    return Check("DeepSpeed engine", f"can't run: {reason}", "problem", f"see the whole error with: LOCAL_RANK=0 python -m {PROBE}")
