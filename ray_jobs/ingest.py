"""`hepdist ingest` as a job on a running cluster: ray job submit --working-dir . -- python ray_jobs/ingest.py SOURCE COHORT [key=value ...]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the submitted code, before any installed copy

from hepdist.cli import main

sys.exit(main(["ingest", *sys.argv[1:]]))
