"""Benchmarks of a prediction: alternating runs, the hardware's lower bound, correctness checks before any speed-up."""
