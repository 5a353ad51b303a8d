"""Fast inference on a GPU: weights held in low precision, fused kernels, one CUDA graph per input shape."""
