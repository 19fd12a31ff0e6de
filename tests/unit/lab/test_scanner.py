"""The simulated scanner, against a small Storage SCP in this process."""

import datetime
import io
import shutil
import socket
import threading

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import JPEGLSLossless, MRImageStorage
from pynetdicom import AE, AllStoragePresentationContexts, evt

from raypost.errors import BadInputError, RefusedError, UnreachableError, UsageError
from raypost.lab.sample_studies import tiny_ct, write_study
from raypost.lab.scanner import find_dicom_files, scan

WHEN = datetime.datetime(2026, 11, 24, 3, 12, 5)


class Pacs:
    """A Storage SCP that keeps what it gets."""

    def __init__(self) -> None:
        self.received: list[Dataset] = []
        self.callers: list[str] = []
        self.answers: list[int] = []
        self.abort_at = 0
        entity = AE(ae_title="PACS")
        entity.require_called_aet = True
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, [*context.transfer_syntax, JPEGLSLossless])
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.keep)])
        self.port = self.server.socket.getsockname()[1]

    def keep(self, event: evt.Event) -> int:
        """Keep one instance."""
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.received.append(dataset)
        self.callers.append(event.assoc.requestor.ae_title)
        if len(self.received) == self.abort_at:
            event.assoc.abort()
        return self.answers[len(self.received) - 1] if self.answers else 0


@pytest.fixture
def pacs():
    """A running one."""
    one = Pacs()
    yield one
    one.server.shutdown()


@pytest.fixture
def folder(tmp_path):
    """A study with other things around it."""
    paths = write_study(tiny_ct(WHEN, 1), tmp_path / "study" / "deep")
    (tmp_path / "study" / "readme.txt").write_text("no image")
    (tmp_path / "study" / "empty").write_bytes(b"")
    (tmp_path / "study" / "broken.dcm").write_bytes(bytes(128) + b"DICM\x02\x00")
    magnetic, compressed = tiny_ct(WHEN, 2)
    magnetic.SOPClassUID = magnetic.file_meta.MediaStorageSOPClassUID = MRImageStorage
    magnetic.save_as(tmp_path / "study" / "deep" / "mr", enforce_file_format=True)
    compressed.compress(JPEGLSLossless, generate_instance_uid=False)
    compressed.save_as(tmp_path / "study" / "jls.dcm", enforce_file_format=True)
    media = FileSet()
    for path in paths:
        media.add(path)
    media.write(tmp_path / "media")
    shutil.copy(tmp_path / "media" / "DICOMDIR", tmp_path / "study" / "DICOMDIR")
    shutil.copy(tmp_path / "media" / "DICOMDIR", tmp_path / "study" / "renamed-directory")
    return tmp_path / "study"


def test_finds_instances_and_nothing_else(folder):
    names = [str(path.relative_to(folder)) for path in find_dicom_files(folder)]
    assert names == ["deep/0001.dcm", "deep/0002.dcm", "deep/mr", "jls.dcm"]
    assert find_dicom_files(folder / "deep" / "mr") == [folder / "deep" / "mr"]


def test_says_when_there_is_nothing(folder, tmp_path):
    for path in (tmp_path / "missing", folder / "readme.txt"):
        with pytest.raises(UsageError):
            find_dicom_files(path)


def test_sends_files_of_many_kinds_as_they_are(folder, pacs):
    paths = find_dicom_files(folder)
    ticks = iter(range(100))
    seen = []
    result = scan(paths, "127.0.0.1", pacs.port, "CT1", "PACS", seen.append, monotonic=lambda: float(next(ticks)))
    assert result.instances == len(pacs.received) == 4
    assert result.raw_part10_bytes == sum(path.stat().st_size for path in paths)
    assert [one.part10_bytes for one in seen] == [path.stat().st_size for path in paths]
    assert tuple(seen) == result.stored
    assert (result.first_store_at_s, result.last_stored_at_s) == (0.0, 4.0)
    assert not result.refused
    assert set(pacs.callers) == {"CT1"}
    for path, received in zip(paths, pacs.received, strict=True):
        sent = pydicom.dcmread(path)
        assert sent == received
        assert sent.file_meta.TransferSyntaxUID == received.file_meta.TransferSyntaxUID
    assert pacs.received[3].file_meta.TransferSyntaxUID == JPEGLSLossless
    assert pacs.received[2].SOPClassUID == MRImageStorage


def test_sends_data_sets(pacs):
    datasets = tiny_ct(WHEN, 1)
    result = scan(datasets, "127.0.0.1", pacs.port, "CT1", "PACS")
    assert [one.SOPInstanceUID for one in pacs.received] == [one.SOPInstanceUID for one in datasets]
    written = io.BytesIO()
    datasets[0].save_as(written, enforce_file_format=True)
    assert result.stored[0].part10_bytes == len(written.getvalue())


def test_a_failure_is_recorded_and_the_scanner_goes_on(pacs):
    pacs.answers = [0xA700, 0xB000]
    result = scan(tiny_ct(WHEN, 1), "127.0.0.1", pacs.port, "CT1", "PACS")
    assert [one.peer_status for one in result.stored] == [0xA700, 0xB000]
    assert [one.number for one in result.refused] == [1]


def test_the_pace_is_kept(pacs):
    times = []
    scan(
        tiny_ct(WHEN, 1), "127.0.0.1", pacs.port, "CT1", "PACS", lambda one: times.append(one.answered_at_s), pace_s=0.3
    )
    assert times[1] - times[0] >= 0.3


def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError, match="Nobody answers"):
            scan(tiny_ct(WHEN, 1), "127.0.0.1", unused.getsockname()[1], "CT1", "PACS")


def test_somebody_else_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        closer = threading.Thread(target=lambda: server.accept()[0].close())
        closer.start()
        with pytest.raises(RefusedError, match="did not agree"):
            scan(tiny_ct(WHEN, 1), "127.0.0.1", server.getsockname()[1], "CT1", "PACS")
        closer.join()


def test_a_wrong_title_is_refused_in_words(pacs):
    with pytest.raises(RefusedError, match="OTHER at 127.0.0.1"):
        scan(tiny_ct(WHEN, 1), "127.0.0.1", pacs.port, "CT1", "OTHER")
    for calling, called in (("", "PACS"), ("CT1", "x" * 17), ("ct1", "PACS")):
        with pytest.raises(UsageError):
            scan(tiny_ct(WHEN, 1), "127.0.0.1", pacs.port, calling, called)


def test_a_kind_that_is_not_accepted(pacs):
    datasets = tiny_ct(WHEN, 1)
    datasets[1].SOPClassUID = datasets[1].file_meta.MediaStorageSOPClassUID = "1.2.3.4"
    with pytest.raises(RefusedError, match="1 of 2 kinds"):
        scan(datasets, "127.0.0.1", pacs.port, "CT1", "PACS")
    assert pacs.received == []


def test_a_connection_that_breaks(pacs):
    pacs.abort_at = 1
    with pytest.raises(UnreachableError):
        scan(tiny_ct(WHEN, 1), "127.0.0.1", pacs.port, "CT1", "PACS")


def test_nothing_and_no_dicom_to_send(pacs, tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    without_meta = Dataset()
    without_meta.file_meta = FileMetaDataset()
    for wrong in (tmp_path / "x", tmp_path / "missing", without_meta):
        with pytest.raises(BadInputError):
            scan([wrong], "127.0.0.1", pacs.port, "CT1", "PACS")
    with pytest.raises(UsageError):
        scan([], "127.0.0.1", pacs.port, "CT1", "PACS")
