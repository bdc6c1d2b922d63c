"""`hepdist predict` as a job on a running cluster: ray job submit --working-dir . -- python ray_jobs/predict.py RUN INPUT OUT [key=value ...]."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the submitted code, before any installed copy

from hepdist.cli import main

sys.exit(main(["predict", *sys.argv[1:]]))
