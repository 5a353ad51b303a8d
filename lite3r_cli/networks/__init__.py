"""The networks: each is a folder here and one word below. docs/adding-a-network.md says what the folder holds."""

# each is imported when one is first asked for, as importing a network imports torch
NETWORKS = ("mini", "vggt", "da3", "pi3", "vggt_omega", "map_anything", "lingbot_map")
