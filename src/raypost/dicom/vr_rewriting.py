"""Rewrites the elements beside Pixel Data from one VR encoding into another, and proves that nothing was lost."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from raypost.dicom.elements import Element
from raypost.dicom.implicit_vr import implicit_elements
from raypost.dicom.instance_file import InstanceFile
from raypost.dicom.part10 import Buffer
from raypost.dicom.pixel_layout import UndecodableError
from raypost.dicom.transfer_syntaxes import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

# What pydicom raises for data sets it cannot take apart or write: LookupError for a missing element,
# RuntimeError with RecursionError, NotImplementedError for an unknown VR, ValueError with UnicodeError.
_PYDICOM_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    OverflowError,
    struct.error,
    EOFError,
)


def other_elements(file: InstanceFile, pixel_data: Element) -> tuple[Buffer, Buffer]:
    """Return the elements before and after Pixel Data as they stand in the file."""
    return file.body[: pixel_data.head], file.body[pixel_data.end :]


def proven_explicit(file: InstanceFile, pixel_data: Element) -> tuple[bytes, bytes]:
    """Return the elements before and after Pixel Data of an implicit VR file in explicit VR.

    Written back as implicit VR they must be the very bytes of the file.

    Raises:
        UndecodableError: They are not, as with group lengths of old modalities.
    """
    head, tail = other_elements(file, pixel_data)
    with translated():
        explicit = _rewritten(head, (True, True), (False, True)), _rewritten(tail, (True, True), (False, True))
        back = tuple(_rewritten(part, (False, True), (True, True)) for part in explicit)
    if back != (head, tail):
        raise UndecodableError("implicit VR header does not survive")
    return explicit


def rewritten_elements(file: InstanceFile, parts: tuple[Buffer, Buffer], *, implicit: bool) -> tuple[Buffer, Buffer]:
    """Return the parts of a file in little endian and the VR encoding asked for; unchanged if they are so already.

    Raises:
        UndecodableError: The library cannot write them so.
    """
    syntax = file.transfer_syntax_uid
    encoding = (syntax == IMPLICIT_VR_LITTLE_ENDIAN, syntax != EXPLICIT_VR_BIG_ENDIAN)
    wanted = (implicit, True)
    if encoding == wanted:
        return parts
    if implicit and encoding[1]:
        return implicit_elements(parts[0]), implicit_elements(parts[1])
    with translated():
        return _rewritten(parts[0], encoding, wanted), _rewritten(parts[1], encoding, wanted)


def _rewritten(encoded: Buffer, encoding: tuple[bool, bool], wanted: tuple[bool, bool]) -> bytes:
    read = read_dataset(io.BytesIO(bytes(encoded)), *encoding)
    # Elements are taken one by one so that each is decoded: raw ones would be copied in their old encoding.
    data_set = Dataset()
    for number in sorted(read.keys()):
        data_set[number] = read[number]
    character_sets = read.original_character_set
    if not isinstance(character_sets, str):
        character_sets = list(character_sets)
    data_set.set_original_encoding(*wanted, character_sets)
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = wanted
    write_dataset(out, data_set, character_sets)
    return out.getvalue()


@contextmanager
def translated() -> Iterator[None]:
    """Turn what pydicom raises for odd data sets into `UndecodableError`; its texts may hold patient data."""
    try:
        yield
    except _PYDICOM_ERRORS as error:
        raise UndecodableError(f"the header cannot be rewritten ({type(error).__name__})") from error
