"""The files of a series whose slices share nearly all of their elements: what they share is encoded once.

pydicom encodes each element of each file anew, which takes longer than writing them. The bytes are those that pydicom
would write.
"""

from collections.abc import Iterable

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian

START = b"\0" * 128 + b"DICM"
PIXEL_DATA = 0x7FE00010


class SliceEncoder:
    """Encodes slices in explicit VR, little-endian."""

    def __init__(self, shared: Dataset) -> None:
        self._encodings = convert_encodings(shared.SpecificCharacterSet)
        self._shared = self._encode(shared)

    def encode(self, own: Dataset, pixels: bytes) -> bytes:
        """The whole file of a slice with its own elements and voxels."""
        elements = self._shared | self._encode(own)
        elements |= self._encode([DataElement(PIXEL_DATA, "OW", pixels)])
        body = b"".join(elements[tag] for tag in sorted(elements))
        return START + _meta(own.SOPClassUID, own.SOPInstanceUID) + body

    def _encode(self, elements: Iterable[DataElement]) -> dict[int, bytes]:
        return {int(element.tag): self._bytes(element) for element in elements}

    def _bytes(self, element: DataElement) -> bytes:
        buffer = _buffer()
        write_data_element(buffer, element, self._encodings)
        return buffer.getvalue()


def _meta(storage: UID, instance: UID) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = _buffer()
    write_file_meta_info(buffer, meta, enforce_standard=True)
    return buffer.getvalue()


def _buffer() -> DicomBytesIO:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    return buffer
