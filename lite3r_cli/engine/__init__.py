"""Prediction on a GPU as fast as it goes: low-precision resident weights, fused kernels, one graph for each shape."""
