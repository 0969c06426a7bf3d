"""Before any test imports torch: as in the scripts, a waiting thread gives its core away."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
