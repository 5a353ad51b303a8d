"""Reconstruct many scenes with one process, or with several that share an output folder."""
