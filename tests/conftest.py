"""Settings for the whole test suite."""

from hypothesis import settings

# No deadline for one example: the machine may be busy with other work. Each test still has pytest's time limit.
settings.register_profile("digiq", deadline=None)
settings.load_profile("digiq")
