"""Cut a batch into rounds in which no two items share a serial key, so that set-based SQL stays simple."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def cut(items: Iterable[T], keys: Callable[[T], Sequence[str]]) -> list[list[T]]:
    """Rounds in order: an item comes one round after the last earlier item that shares a key with it.

    Items without keys go into the first round. Order per key is kept.
    """
    rounds: list[list[T]] = []
    next_round: dict[str, int] = {}
    for item in items:
        serial = keys(item)
        index = max((next_round.get(key, 0) for key in serial), default=0)
        if index == len(rounds):
            rounds.append([])
        rounds[index].append(item)
        for key in serial:
            next_round[key] = index + 1
    return rounds
