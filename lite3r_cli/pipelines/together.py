"""Whether other processes take part in the prediction, and how they join: by `--gpus N`, by torchrun, or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..config import PredictConfig, ReconstructConfig
from ..errors import UsageError
from ..ranks import launched

if TYPE_CHECKING:
    from .predict import Predictor
    from .team import Team

Join = Callable[["Predictor"], "Team | None"]  # raises UsageError for a network that cannot be divided, BackendError


@contextmanager
def joined(config: ReconstructConfig) -> Iterator[tuple[PredictConfig, Join]]:
    """What this process loads, and how it joins the others once the network is known. At the end of the block they are
    dismissed, and processes that were started for it have ended. Raises UsageError, BackendError.
    """
    rank = launched()
    if rank is None and config.gpus == 1:
        yield config.predict, lambda predictor: None
        return
    from .team import for_rank, launched_team, require_divisible

    made: list[Team] = []

    def add(team: Team) -> Team:
        made.append(team)
        return team

    if rank is not None:
        if config.gpus not in (1, rank.count):
            raise UsageError(f"--gpus {config.gpus}: torchrun has started {rank.count} processes; leave --gpus out")
        own = for_rank(config.predict, rank)

        def join(predictor: Predictor) -> Team:
            require_divisible(predictor.network, rank.count)
            return add(launched_team(own, rank))

        yield own, join
        return _dismiss(made)
    from .helpers import Helpers

    with Helpers(config.predict, config.gpus) as helpers:

        def wait(predictor: Predictor) -> Team:
            require_divisible(predictor.network, config.gpus)
            return add(helpers.join())

        yield helpers.config, wait
        _dismiss(made)


def _dismiss(teams: list[Team]) -> None:
    for team in teams:
        team.dismiss()
