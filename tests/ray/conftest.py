"""These tests need Ray, and start clusters: `make test-ray`. Otherwise they are not collected."""

import os

collect_ignore_glob = [] if os.environ.get("TEST_RAY") else ["test_*.py"]
