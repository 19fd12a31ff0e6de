"""The process that listens for modalities: station 1."""

from __future__ import annotations

import ssl
import threading

from raypost.archive import partners
from raypost.dicom.scp import StorageSCP, StorageSCPOptions
from raypost.errors import RaypostError, UsageError
from raypost.node.process import say
from raypost.node.site import Site
from raypost.settings import Settings
from raypost.stations.intake import Intake

PORT_FILE = "dicom-port"
"""Below the data folder: the port in use, also when the settings let the system choose one."""


def run(settings: Settings, stop: threading.Event) -> None:
    """Listen until told to stop."""
    with Site.open(settings) as site:
        site.sandbox.start()
        intake = make_intake(site)
        scp = StorageSCP(scp_options(site), intake.receive, intake.association_ended, intake.refused)
        port = scp.start()
        (settings.data_folder / PORT_FILE).write_text(f"{port}\n")
        say({"dicom_port": port})
        stop.wait()
        scp.stop()


def make_intake(site: Site) -> Intake:
    """Return station 1."""
    return Intake(site.archive, site.sandbox, site.clock, site.settings.limits.disk_free_min_bytes)


def scp_options(site: Site) -> StorageSCPOptions:
    """Return how this site listens for modalities."""
    it = site.settings.dicom
    return StorageSCPOptions(
        spool=site.archive.spool.temporary,
        called_ae_titles=lambda: called_ae_titles(site),
        calling_ae_titles={one.ae_title: frozenset(one.hosts) for one in it.calling},
        host=it.host,
        port=it.port,
        pdu_size_max_bytes=it.pdu_size_max_bytes,
        instance_size_max_bytes=it.instance_size_max_bytes,
        associations_max=it.associations_max,
        associations_per_host_max=it.associations_max,
        idle_timeout_s=it.idle_timeout_s,
        tls=_server_tls(site.settings),
    )


def called_ae_titles(site: Site) -> frozenset[str]:
    """Return every AE title that modalities may call: this site's own and those of its partners."""
    titles = {site.settings.dicom.ae_title}
    try:
        with site.archive.database.transaction() as tx:
            for partner in partners.all_partners(tx):
                if not partner.is_self:
                    titles.update(partner.ae_titles())
    except RaypostError:
        pass  # the database is away: our own title is answered, and each C-STORE says "out of resources"
    return frozenset(titles)


def port_in_use(settings: Settings) -> int:
    """Return the port that modalities send to."""
    try:
        return int((settings.data_folder / PORT_FILE).read_text())
    except (OSError, ValueError):
        return settings.dicom.port


def _server_tls(settings: Settings) -> ssl.SSLContext | None:
    it = settings.dicom
    if it.tls_certificate is None or it.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(it.tls_certificate, it.tls_key)
        if it.tls_client_ca is not None:
            context.load_verify_locations(it.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the DICOM TLS files cannot be used: {error}") from error
    return context
