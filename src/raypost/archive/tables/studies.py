"""Studies as one site made them: patients, cases, series, instances."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from raypost.archive.tables.base import Base, identity, one_of


class PatientRow(Base):
    """A patient as one site names him; issuing_site_id is the site whose numbers these are."""

    __tablename__ = "rp_patient"
    id: Mapped[int] = identity()
    issuing_site_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_site.id"))
    issuer_of_patient_id: Mapped[str]
    patient_id: Mapped[str]
    patient_name: Mapped[str]
    birth_date: Mapped[str]
    sex: Mapped[str]
    __table_args__ = (
        sa.Index(
            "uq_rp_patient",
            "issuing_site_id",
            "issuer_of_patient_id",
            "patient_id",
            "patient_name",
            "birth_date",
            "sex",
            unique=True,
        ),
    )


class CaseRow(Base):
    """A case: one study as one site made it. An instance from another site never enters it."""

    __tablename__ = "rp_case"
    id: Mapped[int] = identity()
    study_key: Mapped[str] = mapped_column(unique=True)
    origin_site_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_site.id"))
    study_instance_uid: Mapped[str]
    patient_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_patient.id"))
    study_date: Mapped[str]
    study_time: Mapped[str]
    study_description: Mapped[str]
    accession_number: Mapped[str]
    is_test: Mapped[bool]
    opened_at: Mapped[datetime]
    last_arrival_at: Mapped[datetime]
    released_at: Mapped[datetime | None] = mapped_column(comment="the modality released its association")
    responsible_site_id: Mapped[int | None] = mapped_column(
        sa.ForeignKey("rp_site.id"), comment="the centre that took the case, as the sender decided"
    )
    responsible_at: Mapped[datetime | None]
    hidden_at: Mapped[datetime | None] = mapped_column(comment="its sender recalled it: kept, not shown")
    hidden_because: Mapped[str] = mapped_column(default="", server_default="")
    __table_args__ = (
        sa.UniqueConstraint("origin_site_id", "study_instance_uid", "is_test"),
        sa.Index("ix_rp_case_last_arrival_at", "last_arrival_at"),
    )


class OpeningRow(Base):
    """A person who opened a case, here or, by its word, at a partner."""

    __tablename__ = "rp_opening"
    id: Mapped[int] = identity()
    case_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_case.id", ondelete="CASCADE"), index=True)
    site_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_site.id"))
    who: Mapped[str]
    opened_at: Mapped[datetime]
    __table_args__ = (sa.UniqueConstraint("case_id", "site_id", "who", "opened_at"),)


class CorrectionRow(Base):
    """Identity or order data of a case, corrected by its sender: old and new stay readable."""

    __tablename__ = "rp_correction"
    id: Mapped[int] = identity()
    case_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_case.id", ondelete="CASCADE"), index=True)
    correction_key: Mapped[str] = mapped_column(comment="the same at both sites")
    corrected_at: Mapped[datetime]
    who: Mapped[str]
    why: Mapped[str]
    before: Mapped[dict[str, Any]]
    after: Mapped[dict[str, Any]]
    __table_args__ = (sa.UniqueConstraint("case_id", "correction_key"),)


class SeriesRow(Base):
    """A series of a case."""

    __tablename__ = "rp_series"
    id: Mapped[int] = identity()
    case_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_case.id", ondelete="CASCADE"))
    series_instance_uid: Mapped[str]
    modality: Mapped[str]
    series_number: Mapped[int | None]
    series_description: Mapped[str]
    body_part: Mapped[str]
    slice_thickness_mm: Mapped[float | None]
    convolution_kernel: Mapped[str] = mapped_column(default="", server_default="")
    contrast_agent: Mapped[str] = mapped_column(default="", server_default="")
    __table_args__ = (sa.UniqueConstraint("case_id", "series_instance_uid"),)


class InstanceRow(Base):
    """One version of a SOP instance; its file is the blob named by sha256.

    standing: current (what is shown), superseded (same pixels, older attributes), conflict (other pixels under the same
    SOP Instance UID: both are kept, a person must look), withdrawn (recalled by its sender: kept, not shown).
    """

    __tablename__ = "rp_instance"
    id: Mapped[int] = identity()
    case_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_case.id", ondelete="CASCADE"))
    series_id: Mapped[int] = mapped_column(sa.ForeignKey("rp_series.id", ondelete="CASCADE"))
    sop_instance_uid: Mapped[str]
    sop_class_uid: Mapped[str]
    transfer_syntax_uid: Mapped[str]
    instance_number: Mapped[int | None]
    image_type: Mapped[str]
    sha256: Mapped[str] = mapped_column(index=True, comment="of the kept file; also the blob's name")
    content_sha256: Mapped[str]
    pixel_sha256: Mapped[str]
    size_bytes: Mapped[int]
    raw_size_bytes: Mapped[int]
    kept_because: Mapped[str] = mapped_column(comment="why the file kept its transfer syntax; empty: compressed")
    version: Mapped[int]
    standing: Mapped[str]
    calling_ae_title: Mapped[str]
    called_ae_title: Mapped[str]
    received_at: Mapped[datetime]
    routed_at: Mapped[datetime | None]
    __table_args__ = (
        sa.UniqueConstraint("case_id", "sop_instance_uid", "content_sha256"),
        one_of("standing", "current", "superseded", "conflict", "withdrawn"),
        sa.Index("ix_rp_instance_unrouted", "case_id", postgresql_where=sa.text("routed_at is null")),
    )
