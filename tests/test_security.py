"""What docs/security.md promises of a default run: nothing is open to the network, nothing is unpickled, no secret is told."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import hepdist

ROOT = Path(__file__).resolve().parents[1]
LISTENERS = """
import json, psutil
from hepdist.cluster import connect
with connect():
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    me = psutil.Process()
    found = {s.laddr.ip for p in [me, *me.children(recursive=True)] for s in p.net_connections("inet") if s.status == "LISTEN"}
print(json.dumps(sorted(found)))
"""


def test_a_ray_of_its_own_listens_on_loopback_alone():
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LISTENERS], env=plain, capture_output=True, text=True, check=True, timeout=240)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found and set(found) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


BETWEEN_PROCESSES = {"ingest/parallel.py", "inference/spread.py"}
"""Where one process of an ingest or a prediction hands work to another; nothing that was read from a file."""


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_file_is_unpickled():
    """Checkpoints are safetensors and JSON, shards Parquet; NumPy archives and torch files are read without objects."""
    package = Path(hepdist.__file__).parent
    for path in package.rglob("*.py"):
        among_ourselves = path.relative_to(package).as_posix() in BETWEEN_PROCESSES
        for call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            name, options = ast.unparse(call.func), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert among_ourselves or not name.startswith(("pickle.", "cloudpickle.", "joblib.")), f"{path.name}:{call.lineno} {name}"
            if name.endswith("torch.load"):
                assert options.get("weights_only") == "True", f"{path.name}:{call.lineno}"
            if name in ("np.load", "numpy.load"):
                assert options.get("allow_pickle", "False") == "False", f"{path.name}:{call.lineno}"
            if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"):  # BaseLoader makes strings alone
                assert options.get("Loader") in ("yaml.SafeLoader", "yaml.BaseLoader"), f"{path.name}:{call.lineno} {name}"
