"""Commands about routing rules."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Any

import typer

from raypost.archive import dicom_nodes, partners
from raypost.archive import rules as rule_rows
from raypost.archive.keys import new_short_key
from raypost.cli.output import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    answer,
    console,
    guarded,
    person,
    settings_of,
    show_table,
)
from raypost.errors import UsageError
from raypost.model.rules import Rule, RuleAction, RuleSubject, parse_hours
from raypost.model.transfer import Priority
from raypost.node.site import opened_site
from raypost.stations.route import destinations, lost_targets, onward

PATTERN = "Pattern with * and ?, upper and lower case alike."


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    rule = typer.Typer(help="Rules: what goes where, how urgent.", no_args_is_help=True)
    rule.command("add")(rule_add)
    rule.command("list")(rule_list)
    rule.command("remove")(rule_remove)
    rule.command("test")(rule_test)
    app.add_typer(rule, name="rule")


@guarded
def rule_add(
    to: Annotated[str, typer.Option(help="Send this site's images to this partner.")] = "",
    forward: Annotated[str, typer.Option(help="Send partners' images on to this DICOM node.")] = "",
    reroute_from: Annotated[
        str, typer.Option(help="With --to: send a study there when this partner stays silent.")
    ] = "",
    after_s: Annotated[
        float, typer.Option("--after", help="For --reroute-from: after so many seconds without progress.")
    ] = 60.0,
    priority: Annotated[Priority, typer.Option(help="How urgent; for --reroute-from: from which urgency on.")] = (
        Priority.ROUTINE
    ),
    name: Annotated[str, typer.Option(help="Short name of the rule; made up when not given.")] = "",
    calling: Annotated[str, typer.Option(help=f"AE title of the sender. {PATTERN}")] = "",
    called: Annotated[str, typer.Option(help=f"AE title that was called. {PATTERN}")] = "",
    modality: Annotated[str, typer.Option(help=f"Such as CT. {PATTERN}")] = "",
    description: Annotated[str, typer.Option(help=f"Study description. {PATTERN}")] = "",
    body_part: Annotated[str, typer.Option(help=f"Body part examined. {PATTERN}")] = "",
    origin: Annotated[str, typer.Option(help="For --forward: only images of this site; default: of any partner.")] = "",
    hours: Annotated[str, typer.Option(help="Only at these hours, such as 20:00-06:00.")] = "",
    why: Annotated[str, typer.Option(help="Why; it is kept with the rule.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Add a rule. Every fitting rule counts; their order decides nothing.

    Example: raypost rule add --to ludwigshafen --modality CT --body-part HEAD --priority emergency

    Example: raypost rule add --reroute-from ludwigshafen --to mannheim --after 60 --priority urgent
    """
    if bool(to) == bool(forward):
        raise UsageError("name either --to PARTNER or --forward NODE")
    if forward and priority is not Priority.ROUTINE:
        raise UsageError("--priority is for --to; in the house everything is sent on at once")
    if reroute_from and not to:
        raise UsageError("name the next centre with --to")
    action = RuleAction.REROUTE if reroute_from else RuleAction.SEND if to else RuleAction.FORWARD
    rule = Rule(
        rule_key=name or new_short_key(),
        action=action,
        target=to or forward,
        priority=priority,
        origin=origin,
        calling_ae_title=calling,
        called_ae_title=called,
        modality=modality,
        study_description=description,
        body_part=body_part,
        hours=parse_hours(hours) if hours else None,
        partner=reroute_from,
        deadline_s=after_s if reroute_from else None,
    )
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        rule_rows.add_rule(tx, rule, now=site.clock.now(), who=person(), why=why)
    answer(as_json, _shape(rule), lambda: console.print(f"Rule {rule.rule_key}: {_words(rule)}", markup=False))


@guarded
def rule_list(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List the rules in force.

    Example: raypost rule list
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        found = rule_rows.all_rules(tx)
    answer(
        as_json,
        [_shape(one) for one in found],
        lambda: show_table(
            ("rule", "what it does"), [(one.rule_key, _words(one)) for one in found], "There are no rules."
        ),
    )


@guarded
def rule_remove(
    name: Annotated[str, typer.Argument(metavar="RULE")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Remove a rule; it stays readable in the history.

    Example: raypost rule remove night-ct
    """
    with opened_site(settings_of(config)) as site, site.archive.database.transaction() as tx:
        rule_rows.remove_rule(tx, name, now=site.clock.now(), who=person())
    answer(as_json, {"removed": name}, lambda: console.print(f"Rule {name} is removed.", markup=False))


@guarded
def rule_test(
    calling: Annotated[str, typer.Option(help="AE title of the sender.")] = "",
    called: Annotated[str, typer.Option(help="AE title that is called.")] = "",
    modality: Annotated[str, typer.Option(help="Modality.")] = "CT",
    description: Annotated[str, typer.Option(help="Study description.")] = "",
    body_part: Annotated[str, typer.Option(help="Body part examined.")] = "",
    origin: Annotated[str, typer.Option(help="Site the images come from; default: this one.")] = "",
    at: Annotated[str, typer.Option(help="Time of day, such as 03:10; default: now.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say where an instance with these properties would go, and why the other rules do not fit.

    Example: raypost rule test --calling CT1 --called LUDWIGSHAFEN_N --modality CT --body-part HEAD
    """
    with opened_site(settings_of(config)) as site:
        with site.archive.database.transaction() as tx:
            own, known, in_force = partners.own_site(tx), partners.all_partners(tx), rule_rows.all_rules(tx)
            nodes = {one.name for one in dicom_nodes.all_nodes(tx)}
        moment = _time(at) if at else site.clock.now().astimezone(site.settings.zone).time()
    subject = RuleSubject(origin or own.name, calling, called, modality, description, body_part, moment)
    is_ours = subject.origin == own.name
    sent = destinations(subject, in_force, known) if is_ours else []
    forwarded = [one for one in onward(subject, in_force, is_ours=is_ours) if one.target in nodes]
    lost = sorted(lost_targets(subject, in_force, known, nodes, is_ours=is_ours))
    shape: dict[str, list[dict[str, Any]]] = {
        "send": [
            {"partner": one.partner.name, "priority": one.priority.value, "because": one.ordered_by} for one in sent
        ],
        "forward": [{"node": one.target, "because": f"rule:{one.rule_key}"} for one in forwarded],
        "without_target": [{"target": target, "because": because} for because, target in lost],
        "misfits": [
            {"rule": one.rule_key, "conditions": one.misfits(subject)} for one in in_force if one.misfits(subject)
        ],
    }

    def _show() -> None:
        for one in shape["send"]:
            console.print(f"is sent to {one['partner']}, {one['priority']} ({one['because']})", markup=False)
        for one in shape["forward"]:
            console.print(f"is sent on to {one['node']} ({one['because']})", markup=False)
        for one in shape["without_target"]:
            console.print(f"goes nowhere: {one['target']} is not there any more ({one['because']})", markup=False)
        if not shape["send"] and not shape["forward"] and not shape["without_target"]:
            console.print("stays here: no rule fits and the called AE title is no partner's", markup=False)
        for one in shape["misfits"]:
            console.print(f"does not fit: rule {one['rule']}, because of {', '.join(one['conditions'])}", markup=False)

    answer(as_json, shape, _show)


def _time(text: str) -> time:
    if not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", text):
        raise UsageError(f"a time of day looks like 03:10, not {text!r}")
    hour, minute = text.split(":")
    return time(int(hour), int(minute))


def _shape(rule: Rule) -> dict[str, str | float | None]:
    return {
        "rule": rule.rule_key,
        "action": rule.action.value,
        "target": rule.target,
        "priority": rule.priority.value,
        "origin": rule.origin,
        "calling": rule.calling_ae_title,
        "called": rule.called_ae_title,
        "modality": rule.modality,
        "description": rule.study_description,
        "body_part": rule.body_part,
        "hours": f"{rule.hours[0]:%H:%M}-{rule.hours[1]:%H:%M}" if rule.hours else None,
        "partner": rule.partner,
        "deadline_s": rule.deadline_s,
    }


def _words(rule: Rule) -> str:
    shape = _shape(rule)
    conditions = [
        f"{name.replace('_', ' ')} {shape[name]}"
        for name in ("origin", "calling", "called", "modality", "description", "body_part", "hours")
        if shape[name]
    ]
    match rule.action:
        case RuleAction.SEND:
            what = f"send to {rule.target}, {rule.priority.value}"
        case RuleAction.FORWARD:
            what = f"send on to {rule.target}"
        case RuleAction.REROUTE:
            what = f"send to {rule.target} when {rule.partner} confirms nothing for {rule.deadline_s:.0f} s"
            return f"{what}, from {rule.priority.value} on"
    return f"{what}, if {' and '.join(conditions)}" if conditions else f"{what}, always"
