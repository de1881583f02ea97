"""A simulated phone: drawn with Pillow, deterministic by seed, thousands of steps a second, with an exact oracle."""
