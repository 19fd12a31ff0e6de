"""Who is responsible for a case: at most one centre, decided by the sender (invariant 9)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """What the sender decides on a request to take a case.

    Attributes:
        responsible: The centre that has it now.
        is_new: That was decided now: every centre of the case is told.
    """

    responsible: int
    is_new: bool


def decide_take(
    asking: int, responsible: int | None, withdrawn: Collection[int], *, may_have_forgotten: bool = False
) -> Decision | None:
    """Decide on a centre's request to take a case: the first one gets it, a second one is told who has it.

    Args:
        asking: Number of the centre's site.
        responsible: The centre that has it; None while nobody does.
        withdrawn: Centres from which the case was recalled.
        may_have_forgotten: This site was restored from a backup after the case began: a centre may have it of which
            nothing is known here any more.

    Returns:
        None when the centre that asks gets nothing: its images were recalled, or people must agree on the telephone who
        has the case.
    """
    if asking in withdrawn:
        return None if responsible is None else Decision(responsible, is_new=False)
    if responsible is None and may_have_forgotten:
        return None
    if responsible is None:
        return Decision(asking, is_new=True)
    return Decision(responsible, is_new=False)
