"""What all tests share: a known environment, and how hard hypothesis looks."""

import os

from hypothesis import settings

# A person's own settings must not decide whether the tests pass.
for _name in [name for name in os.environ if name.startswith(("WARDEN_", "JOB_", "SAM2_"))]:
    del os.environ[_name]

# No deadline: a busy machine is not a failure. Derandomized, so that a red run is red again.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
