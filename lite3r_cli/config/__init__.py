"""What can be asked of this program, one frozen dataclass for each subject. Nothing heavy is imported here.

A field says all there is to say about its option: type, default and, in an `Option`, the help text. The commands make
their options from these fields; the API takes the same fields as keyword arguments.
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
