"""Whether other processes take part in the prediction, and how they join: by `--gpus N`, by torchrun, or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..config import PredictConfig, ReconstructConfig
from ..console import Progress
from ..errors import UsageError
from ..ranks import launched

if TYPE_CHECKING:
    from .predict import Predictor
    from .team import Team

Join = Callable[[], "Team | None"]  # raises BackendError
Begin = Callable[["Predictor"], Join]  # raises UsageError for a network that cannot be divided, BackendError


@contextmanager
def joined(config: ReconstructConfig, progress: Progress) -> Iterator[tuple[PredictConfig, Begin]]:
    """What this process loads, and what it calls once the network is known, loaded or not: this starts the others, and
    returns how to join them. At the end of the block they are dismissed, and processes that were started for it have
    ended. Raises UsageError, BackendError.
    """
    rank = launched()
    if rank is None and config.gpus == 1:
        yield config.predict, lambda predictor: lambda: None
        return
    from ..networks.family import own_family  # imports torch, as `team` does
    from .team import for_rank, launched_team, require_divides, require_divisible

    require_divides(own_family(config.predict.model), config.predict.model)  # before a download
    made: list[Team] = []

    def wait(join: Callable[[], Team]) -> Team:
        with progress.stage("Wait for processes", minor=True):
            made.append(join())
        return made[-1]

    if rank is not None:
        if config.gpus not in (1, rank.count):
            raise UsageError(f"--gpus {config.gpus}: torchrun has started {rank.count} processes; leave --gpus out")
        own = for_rank(config.predict, rank)

        def meet(predictor: Predictor) -> Join:
            require_divisible(predictor.built, own, rank.count)
            return lambda: wait(lambda: launched_team(own, rank))

        yield own, meet
        return _dismiss(made)
    from .helpers import Helpers

    with Helpers(config.predict, config.gpus) as helpers:

        def start(predictor: Predictor) -> Join:
            require_divisible(predictor.built, helpers.config, config.gpus)
            helpers.start()
            return lambda: wait(helpers.join)

        yield helpers.config, start
        _dismiss(made)


def _dismiss(teams: list[Team]) -> None:
    for team in teams:
        team.dismiss()
