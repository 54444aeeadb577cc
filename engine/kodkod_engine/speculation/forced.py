"""Tokens that a constraint leaves no choice about: drafts of probability one."""

from __future__ import annotations

from collections.abc import Sequence as Run

from kodkod_engine.speculation.drafter import NO_DRAFT, Draft, DraftTask


class ForcedDrafter:
    """See `drafter.Drafter`. Asks the constraint what it allows, for as long as that is one token."""

    name = "forced"

    def draft(self, tasks: Run[DraftTask]) -> list[Draft]:
        """See `Drafter`."""
        return [self._force(task) for task in tasks]

    def _force(self, task: DraftTask) -> Draft:
        constraint = task.request.constraint
        if constraint is None:
            return NO_DRAFT
        ids = [*task.generated_ids, *task.prefix_ids]
        begun = len(ids)
        while len(ids) - begun < task.max_tokens:
            allowed = constraint.allowed_ids(ids)
            if allowed is None or len(allowed) != 1:
                break
            ids.extend(allowed)
        forced = tuple(ids[begun:])
        return Draft(forced, (1.0,) * len(forced))

    def end(self, request_id: str) -> None:
        """See `Drafter`. Nothing is kept."""
