"""Policy extraction: best-of-N with a critic, the baselines beside it, and imitation of what they chose."""
