"""Attention that costs less than dense: a few exact blocks, and a linear branch for the rest."""
