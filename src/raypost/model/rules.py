"""Routing rules as values and pure functions: which study goes where, and when."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from datetime import time
from enum import Enum

from raypost.errors import UsageError
from raypost.model.transfer import Priority

PATTERN_LENGTH_MAX = 64
DEADLINE_MIN_S = 5.0
DEADLINE_MAX_S = 86_400.0


class RuleAction(Enum):
    """What a rule does with an instance that fits."""

    SEND = "send"
    FORWARD = "forward"
    REROUTE = "reroute"


@dataclass(frozen=True, slots=True)
class RuleSubject:
    """What a rule looks at: one instance on its way.

    Attributes:
        origin: Name of the site the images come from; this site's own name for images of its own modalities.
        local_time: Time of day at this site.
    """

    origin: str
    calling_ae_title: str
    called_ae_title: str
    modality: str
    study_description: str
    body_part: str
    local_time: time


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the rules. Patterns may hold * and ?, upper and lower case are the same, '' fits everything.

    Attributes:
        rule_key: Our own short name of the rule.
        target: Name of a partner (SEND), of a DICOM node (FORWARD) or of the next centre (REROUTE).
        partner: REROUTE: name of the centre that is silent.
        deadline_s: REROUTE: after so many seconds without progress the next centre gets the study.
        hours: Local times of day, from included, until excluded; 20:00-06:00 passes midnight. None: always.
    """

    rule_key: str
    action: RuleAction
    target: str
    priority: Priority = Priority.ROUTINE
    origin: str = ""
    calling_ae_title: str = ""
    called_ae_title: str = ""
    modality: str = ""
    study_description: str = ""
    body_part: str = ""
    hours: tuple[time, time] | None = None
    partner: str = ""
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        is_reroute = self.action is RuleAction.REROUTE
        if is_reroute != bool(self.partner) or is_reroute != (self.deadline_s is not None):
            raise UsageError("a reroute rule names the silent centre and after how long the next one gets the study")
        if self.deadline_s is not None and not DEADLINE_MIN_S <= self.deadline_s <= DEADLINE_MAX_S:
            raise UsageError(f"the deadline must lie between {DEADLINE_MIN_S:.0f} and {DEADLINE_MAX_S:.0f} seconds")
        if is_reroute and self.hours is not None:
            raise UsageError("a reroute rule counts at all hours")
        if is_reroute and self.partner == self.target:
            raise UsageError("the next centre is the silent one")
        for name in ("origin", "calling_ae_title", "called_ae_title", "modality", "study_description", "body_part"):
            pattern = getattr(self, name)
            if len(pattern) > PATTERN_LENGTH_MAX or any(ord(c) < 32 for c in pattern):
                raise UsageError(f"the pattern for {name} must be printable and at most {PATTERN_LENGTH_MAX} long")

    def misfits(self, subject: RuleSubject) -> list[str]:
        """Return the names of the conditions that the subject does not meet; empty when the rule fits."""
        wrong = [
            name
            for name in ("origin", "calling_ae_title", "called_ae_title", "modality", "study_description", "body_part")
            if not _fits(getattr(self, name), getattr(subject, name))
        ]
        if self.hours is not None and not _within(subject.local_time, *self.hours):
            wrong.append("hours")
        return wrong


def fitting(rules: list[Rule], subject: RuleSubject, action: RuleAction) -> list[Rule]:
    """Return the rules of one action that fit, one a target: of several for a target the most urgent one.

    The order of the rules decides nothing: every fitting rule counts, so that adding one never takes a copy away.
    """
    chosen: dict[str, Rule] = {}
    for rule in rules:
        if rule.action is action and not rule.misfits(subject):
            other = chosen.get(rule.target)
            if other is None or rule.priority.rank > other.priority.rank:
                chosen[rule.target] = rule
    return list(chosen.values())


def reroute_rules(rules: list[Rule], partner: str, priority: Priority) -> list[Rule]:
    """Return the rules that say where a study goes when a centre stays silent, the one with least patience first.

    Only the first whose target is there counts.

    Args:
        priority: Of the transfer; a rule counts from its own priority upwards.
    """
    fits = [
        rule
        for rule in rules
        if rule.action is RuleAction.REROUTE and rule.partner == partner and priority.rank >= rule.priority.rank
    ]
    return sorted(fits, key=lambda rule: (rule.deadline_s or 0.0, rule.rule_key))


def parse_hours(text: str) -> tuple[time, time]:
    """Read "20:00-06:00".

    Raises:
        UsageError: It is something else.
    """
    found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)", text)
    if not found:
        raise UsageError(f"hours must look like 20:00-06:00, not {text!r}")
    begin_h, begin_min, end_h, end_min = (int(digits) for digits in found.groups())
    return time(begin_h, begin_min), time(end_h, end_min)


def _fits(pattern: str, value: str) -> bool:
    return not pattern or fnmatch.fnmatchcase(value.strip().casefold(), _no_sets(pattern.strip().casefold()))


def _no_sets(pattern: str) -> str:
    """Only * and ? are special; brackets stand for themselves."""
    return pattern.replace("[", "[[]")


def _within(moment: time, begin: time, end: time) -> bool:
    if begin <= end:
        return begin <= moment < end
    return moment >= begin or moment < end
