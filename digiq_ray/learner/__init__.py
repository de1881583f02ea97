"""The learner: trains critic and policy from the stores, resumes exactly, and runs as a Ray actor."""
