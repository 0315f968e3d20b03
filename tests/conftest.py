"""What every test starts from: repeatable examples, no window, no settings of the developer's own."""

import os

from hypothesis import settings

settings.register_profile("suffice", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("suffice")  # `--hypothesis-profile default` looks for new examples

os.environ["MPLBACKEND"] = "Agg"  # for the processes that tests start, too
for name in [name for name in os.environ if name.startswith("SUFFICE_")]:
    del os.environ[name]
