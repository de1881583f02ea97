"""Settings for the whole test suite."""

import os

from hypothesis import settings

# No deadline for one example: the machine may be busy with other work. Each test still has pytest's time limit.
settings.register_profile("digiq", deadline=None)
settings.load_profile("digiq")

# Ray makes its workers nicer than the tests that run beside them; on two cores they would hardly get a turn.
os.environ.setdefault("RAY_worker_niceness", "0")

# An S3 server on loopback, started when a test asks for one.
pytest_plugins = ("s3_fixtures",)
