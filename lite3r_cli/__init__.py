"""Lite3R: a folder of photos becomes depth maps, camera poses and a coloured point cloud.

Importing this package imports nothing heavy: torch is loaded by the command that needs it.
"""

__version__ = "0.1.0"
