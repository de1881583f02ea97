"""Digi-Q (arXiv 2502.15760) on Ray: offline reinforcement learning of agents that operate phones from screenshots."""

__version__ = "0.1.0"
