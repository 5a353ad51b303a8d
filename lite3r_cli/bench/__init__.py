"""What a prediction costs, measured fairly: alternating runs, the hardware's floor, a check before any ratio."""
