"""These tests need Ray, and start clusters: `make test-ray`. Otherwise they are not collected."""

import os

collect_ignore_glob = [] if os.environ.get("TEST_RAY") else ["test_*.py"]
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 otherwise: on a machine with other work they hardly begin
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
