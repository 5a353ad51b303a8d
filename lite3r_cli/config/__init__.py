"""The options of all commands, one frozen dataclass per subject. Nothing heavy is imported here.

A field defines its option: type, default and, in an `Option`, the help text. The commands build their options from
these fields; the API accepts the same fields as keyword arguments.
"""

from .option import Argument, Option, require
from .prediction import InputConfig, LiteConfig, PredictConfig
from .reconstruction import EvaluateConfig, FusionConfig, ReconstructConfig
from .world import WorldConfig

__all__ = [
    "Argument",
    "EvaluateConfig",
    "FusionConfig",
    "InputConfig",
    "LiteConfig",
    "Option",
    "PredictConfig",
    "ReconstructConfig",
    "WorldConfig",
    "require",
]
