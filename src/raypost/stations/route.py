"""3 Apply the rules or a person's order; open a transfer, or order that an instance is sent on in the house."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import tzinfo

from raypost.archive import cases, damage, dicom_nodes, forwards, partners, rules, search, targets, transfers, urgency
from raypost.archive.database import Transaction
from raypost.archive.rearm import rearm
from raypost.archive.site import Archive
from raypost.archive.tables import CaseRow, InstanceRow, SeriesRow
from raypost.archive.urgency import Order
from raypost.errors import UsageError
from raypost.model.clock import Clock
from raypost.model.rules import Rule, RuleAction, RuleSubject, fitting
from raypost.model.site import Partner, addressed_partner
from raypost.model.transfer import Priority
from raypost.transfer.limits import Limits

BATCH_MAX = 500


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one instance goes and why."""

    partner: Partner
    priority: Priority
    ordered_by: str


@dataclass(frozen=True, slots=True)
class Route:
    """Looks at each filed instance once.

    Attributes:
        zone: The site's time zone, for rules with hours.
    """

    archive: Archive
    clock: Clock
    limits: Limits
    zone: tzinfo

    def route(self, case_id: int) -> None:
        """Apply the rules to everything new of a case; sending starts while the study is still arriving."""
        while self._route_batch(case_id) == BATCH_MAX:
            pass

    def _route_batch(self, case_id: int) -> int:
        now = self.clock.now()
        with self.archive.database.transaction() as tx:
            case = transfers.lock_case(tx, case_id)
            found = cases.unrouted(tx, case_id, BATCH_MAX)
            known, in_force = partners.all_partners(tx), rules.all_rules(tx)
            nodes = {node.name: node for node in dicom_nodes.all_nodes(tx)}
            origin = partners.site_name(tx, case.origin_site_id)
            is_ours = any(one.is_self and one.site_id == case.origin_site_id for one in known)
            chosen: dict[str, tuple[Destination, list[InstanceRow]]] = {}
            sent = transfers.sent_already(tx, case_id, [instance.id for instance, _ in found])
            lost: set[tuple[str, str]] = set()
            for instance, series in found:
                instance.routed_at = now
                if case.is_test:
                    continue
                subject = self._subject(origin, case, instance, series)
                for one in destinations(subject, in_force, known) if is_ours else []:
                    before, instances = chosen.get(one.partner.name, (one, []))
                    more_urgent = one if one.priority.rank > before.priority.rank else before
                    chosen[one.partner.name] = (more_urgent, [*instances, instance])
                for rule in onward(subject, in_force, is_ours=is_ours):
                    if rule.target in nodes:
                        forwards.order(tx, instance.id, nodes[rule.target], now)
                lost |= lost_targets(subject, in_force, known, set(nodes), is_ours=is_ours)
            lost |= self._lost_addresses(tx, [instance for instance, _ in found], known) if is_ours else set()
            targets.tell_of_lost(tx, case, lost, now)
            if chosen:
                transfers.lock_outgoing(tx, case_id)
            for destination, instances in chosen.values():
                self._order(tx, case, destination, instances, sent)
            return len(found)

    def _order(
        self,
        tx: Transaction,
        case: CaseRow,
        destination: Destination,
        instances: list[InstanceRow],
        sent: set[tuple[int, int]],
    ) -> None:
        """Send what is new to a partner; what was sent there before becomes more urgent, or is sent again."""
        site_id, again = destination.partner.site_id, set[int]()
        if known := {one.id for one in instances if (one.id, site_id) in sent}:
            order = Order(site_id, destination.priority, destination.ordered_by)
            again = known - urgency.order_anew(tx, case, order, known, self.limits, self.clock.now())
        if new := [one for one in instances if one.id not in again]:
            self._add(tx, case, destination, new)

    def _lost_addresses(
        self, tx: Transaction, instances: list[InstanceRow], known: list[Partner]
    ) -> set[tuple[str, str]]:
        """Return the called AE titles that a partner had which was removed; new associations to it are turned away."""
        called = {one.called_ae_title for one in instances if one.called_ae_title}
        gone = {
            title: targets.retired_partner_titled(tx, title) for title in called if not addressed_partner(title, known)
        }
        return {(f"ae:{title}", name) for title, name in gone.items() if name is not None}

    def _subject(self, origin: str, case: CaseRow, instance: InstanceRow, series: SeriesRow) -> RuleSubject:
        return RuleSubject(
            origin=origin,
            calling_ae_title=instance.calling_ae_title,
            called_ae_title=instance.called_ae_title,
            modality=series.modality,
            study_description=case.study_description,
            body_part=series.body_part,
            local_time=self.clock.now().astimezone(self.zone).time(),
        )

    def _add(self, tx: Transaction, case: CaseRow, destination: Destination, instances: list[InstanceRow]) -> str:
        """Put instances into the open transfer of the case to a partner; return its key, of several the last."""
        now, transfer_key = self.clock.now(), ""
        for begin in range(0, len(instances), BATCH_MAX):
            transfer = transfers.open_outgoing(
                tx,
                case=case,
                site_id=destination.partner.site_id,
                priority=destination.priority,
                ordered_by=destination.ordered_by,
                now=now,
            )
            batch = instances[begin : begin + BATCH_MAX]
            transfers.add_items(tx, transfer, batch, now)
            damage.put_back(tx, transfer, now, {one.id for one in batch})  # whoever sends it again may have mended it
            rearm(tx, transfer, self.limits, now)
            transfer_key = transfer.transfer_key
        return transfer_key

    def send_study(self, study_key: str, partner_name: str, priority: Priority, who: str) -> str:
        """Send a whole study because a person ordered it; return the transfer's key.

        Raises:
            UsageError: No such study or partner, or nothing in the study.
        """
        with self.archive.database.transaction() as tx:
            case = search.case_by_key(tx, study_key)
            instances = [one.id for one in cases.instances_of_case(tx, case.id)]
        return self.send_instances(case.id, instances, partner_name, priority, who)

    def send_instances(
        self, case_id: int, instance_ids: list[int], partner_name: str, priority: Priority, who: str
    ) -> str:
        """Send instances of one case because a person ordered it; return the transfer's key.

        Raises:
            UsageError: No such partner, this site itself (but for a test transfer), or nothing to send.
        """
        now = self.clock.now()
        if not instance_ids:
            raise UsageError("there is nothing to send in this study")
        with self.archive.database.transaction() as tx:
            case = transfers.lock_case(tx, case_id)
            partner = partners.partner_named(tx, partner_name)
            if partner.is_self and not case.is_test:
                raise UsageError(f"{partner_name} is this site itself", do="`raypost partner list` shows the partners.")
            cases.note_release(tx, [case_id], now)  # nothing more is to come
            destination = Destination(partner, priority, f"person:{who}")
            return self._add(tx, case, destination, cases.instances_by_id(tx, instance_ids))


def destinations(subject: RuleSubject, in_force: list[Rule], known: list[Partner]) -> list[Destination]:
    """Return the partners an instance of this site goes to: the addressed one, and those of every fitting rule.

    A partner that is addressed and ruled gets the more urgent of both.
    """
    by_name = {one.name: one for one in known if not one.is_self}
    chosen: dict[str, Destination] = {}
    addressed = addressed_partner(subject.called_ae_title, known)
    if addressed is not None:
        chosen[addressed[0].name] = Destination(*addressed, ordered_by=f"ae:{subject.called_ae_title}")
    for rule in fitting(in_force, subject, RuleAction.SEND):
        partner, before = by_name.get(rule.target), chosen.get(rule.target)
        if partner is not None and (before is None or rule.priority.rank > before.priority.rank):
            chosen[rule.target] = Destination(partner, rule.priority, ordered_by=f"rule:{rule.rule_key}")
    return list(chosen.values())


def onward(subject: RuleSubject, in_force: list[Rule], *, is_ours: bool) -> list[Rule]:
    """Return the rules that send an instance on in the house.

    A rule without an origin means "from any partner": this site's own images are sent on only where a rule names it,
    so that nothing goes back to where it came from by surprise.
    """
    return [rule for rule in fitting(in_force, subject, RuleAction.FORWARD) if rule.origin or not is_ours]


def lost_targets(
    subject: RuleSubject, in_force: list[Rule], known: list[Partner], nodes: Collection[str], *, is_ours: bool
) -> set[tuple[str, str]]:
    """Return what fitting rules name and is not there any more: pairs of (rule:KEY, name).

    Args:
        nodes: Names of the DICOM nodes in force.
    """
    sites = {one.name for one in known if not one.is_self}
    sending = fitting(in_force, subject, RuleAction.SEND) if is_ours else []
    lost = [rule for rule in sending if rule.target not in sites]
    lost += [rule for rule in onward(subject, in_force, is_ours=is_ours) if rule.target not in nodes]
    return {(f"rule:{rule.rule_key}", rule.target) for rule in lost}
