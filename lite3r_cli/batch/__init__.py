"""Many scenes by one process that keeps the network, or by several processes that share one output folder."""
