"""The networks. Each is a folder here and one entry of NETWORKS; docs/adding-a-network.md says what it contains."""

# imported on first use, because importing a network imports torch
NETWORKS = ("mini", "vggt", "da3", "pi3", "vggt_omega", "map_anything", "lingbot_map")
