"""DICOM: a series of single-frame images for each volume, and a segmentation where there are label maps.

UIDs and PatientIDs come from the release's digest and the sample's id: exported twice a volume is the same instance in
an archive, and two releases never overwrite each other. Every instance says that it is synthetic (0008,001C). There is
no date anywhere, since there was no examination.
"""

import hashlib
import shutil
import uuid
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from meddiff_core.distribution.exports.bids import in_words_of_bids
from meddiff_core.distribution.exports.cohort import SENTENCE, Cohort, ExportedVolume
from meddiff_core.distribution.exports.dicom_geometry import Geometry, geometry_of, slices_of
from meddiff_core.distribution.exports.dicom_segmentation import segmentation_of
from meddiff_core.distribution.exports.dicom_slices import SliceEncoder
from meddiff_core.distribution.exports.format import ExportFormat, Voxels
from meddiff_core.distribution.exports.papers import write_papers, write_table
from meddiff_core.release.participants_table import AGES, IDENTIFIER

CLASSES = {"MR": MRImageStorage, "CT": CTImageStorage}
SHORT, LONG, TEXT = 16, 64, 1024
"""Characters of SH, LO and ST."""


class Identity:
    """What the instances of a volume are called in an archive."""

    def __init__(self, digest: str, sample: str) -> None:
        self._of = f"{digest}\n{sample}"

    def uid(self, what: str) -> str:
        """A UID for the study, a series or an instance of the volume."""
        return f"2.25.{uuid.UUID(bytes=self._hash(what)[:16], version=5).int}"

    def code(self, characters: int) -> str:
        """A short name that no other volume of any release has."""
        return self._hash("volume").hex()[:characters]

    def _hash(self, what: str) -> bytes:
        return hashlib.sha256(f"{self._of}\n{what}".encode()).digest()


class DicomExport(ExportFormat):
    """`LABEL/image/*.dcm` and `LABEL/segmentation.dcm`."""

    title = "DICOM"

    def __init__(self, cohort: Cohort) -> None:
        super().__init__(cohort)
        i, j, k = cohort.release.contract["size"]
        self.geometry = geometry_of(cohort.affine, (i, j, k))
        words, _ = in_words_of_bids(cohort.table(), cohort.describe_columns())
        self.people = dict(zip(words[IDENTIFIER], words.to_dict("records"), strict=True))

    def write_volume(self, folder: Path, volume: ExportedVolume, content: Voxels) -> list[Path]:
        """The images of a volume in the order of their slices, and the segmentation on the same grid."""
        identity = Identity(self.cohort.release.digest, volume.sample)
        place = folder / volume.label
        shutil.rmtree(place, ignore_errors=True)
        (place / "image").mkdir(parents=True)
        shared = self._shared(volume, identity)
        encoder, images, paths = SliceEncoder(shared), list[Dataset](), list[Path]()
        for number, pixels in enumerate(slices_of(content.image)):
            own = _own(shared, identity, self.geometry, number)
            paths.append(place / "image" / f"{number + 1:04d}.dcm")
            paths[-1].write_bytes(encoder.encode(own, pixels.tobytes()))
            images.append(own)
        if content.label is not None:
            paths.append(place / "segmentation.dcm")
            headers, frames = [_with(shared, own) for own in images], slices_of(content.label)
            found = segmentation_of(headers, frames, self.cohort.names, identity.uid, self.cohort.line[:TEXT])
            dcmwrite(paths[-1], found, enforce_file_format=True)
        return paths

    def _shared(self, volume: ExportedVolume, identity: Identity) -> Dataset:
        """What all slices of a volume have in common."""
        image = Dataset()
        image.SpecificCharacterSet = "ISO_IR 192"
        image.SOPClassUID = CLASSES[self.cohort.modality]
        image.SyntheticData = "YES"
        self._add_patient(image, volume, identity)
        self._add_study(image, identity)
        _add_grid(image, self.geometry)
        self._add_pixels(image)
        (_add_ct if self.cohort.modality == "CT" else _add_mr)(image)
        return image

    def _add_patient(self, image: Dataset, volume: ExportedVolume, identity: Identity) -> None:
        person = self.people[volume.label]
        image.PatientName = f"Synthetic^{volume.label}"
        image.PatientID = f"{volume.label}-{identity.code(16)}"
        image.PatientBirthDate = ""
        image.PatientSex = person["sex"] if isinstance(person.get("sex"), str) else ""
        if age := _age(person):
            image.PatientAge = age
        image.PatientComments = self.cohort.line

    def _add_study(self, image: Dataset, identity: Identity) -> None:
        told = self.cohort.provenance
        image.StudyInstanceUID, image.SeriesInstanceUID = identity.uid("study"), identity.uid("image")
        image.FrameOfReferenceUID, image.PositionReferenceIndicator = identity.uid("frame of reference"), ""
        image.StudyID, image.SeriesNumber = identity.code(SHORT), 1
        image.StudyDate = image.StudyTime = image.AccessionNumber = image.ReferringPhysicianName = ""
        image.StudyDescription = f"Synthetic: {told['release']} {told['version']}"[:LONG]
        image.SeriesDescription, image.Modality = "Synthetic image", self.cohort.modality
        image.Laterality, image.PatientPosition = "", "HFS"
        image.Manufacturer, image.ManufacturerModelName = "meddiff", "synthetic, no scanner"
        image.SoftwareVersions = self.cohort.release.manifest.versions.get("meddiff", "unknown")[:LONG]
        image.DeviceSerialNumber = told["manifest_sha256"]
        image.DerivationDescription = SENTENCE
        image.ImageComments = self.cohort.line
        image.AcquisitionNumber, image.BurnedInAnnotation = 1, "NO"

    def _add_pixels(self, image: Dataset) -> None:
        i, j, _ = self.cohort.release.contract["size"]
        low, high = self.cohort.range
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows, image.Columns = j, i
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        image.WindowCenter, image.WindowWidth = _number((low + high) / 2), _number(max(high - low, 1))

    def finish(self, folder: Path) -> None:
        """The table, with the PatientID and the series of each volume, and the page."""
        table, columns = self.cohort.table(), self.cohort.describe_columns()
        known = [Identity(self.cohort.release.digest, volume.sample) for volume in self.cohort.volumes]
        named = zip(self.cohort.volumes, known, strict=True)
        table["dicom_patient_id"] = [f"{volume.label}-{identity.code(16)}" for volume, identity in named]
        table["dicom_series_uid"] = [identity.uid("image") for identity in known]
        columns["dicom_patient_id"] = {"Description": "PatientID (0010,0020) of the volume."}
        columns["dicom_series_uid"] = {"Description": "SeriesInstanceUID (0020,000E) of its image."}
        write_table(folder, table, columns)
        files = {"`*/image/*.dcm`": f"a series of {self.cohort.modality} images, int16, {self.cohort.unit}"}
        if self.cohort.names:
            files["`*/segmentation.dcm`"] = "DICOM SEG with a frame for each slice of each structure, also empty ones"
        write_papers(folder, self.cohort, self.title, files)


def _own(shared: Dataset, identity: Identity, geometry: Geometry, number: int) -> Dataset:
    """What distinguishes a slice from the others."""
    own = Dataset()
    own.SOPClassUID, own.SOPInstanceUID = shared.SOPClassUID, identity.uid(f"slice {number}")
    own.InstanceNumber = number + 1
    position = geometry.position(number)
    own.ImagePositionPatient = [_number(part) for part in position]
    normal = np.cross(geometry.orientation[:3], geometry.orientation[3:])
    own.SliceLocation = _number(float(normal @ position) + 0.0)
    return own


def _with(shared: Dataset, own: Dataset) -> Dataset:
    """The whole header of a slice. `Dataset(shared)` would share its dictionary with the first."""
    header = Dataset()
    header.update(shared)
    header.update(own)
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return header


def _add_grid(image: Dataset, geometry: Geometry) -> None:
    columns, rows, slices = geometry.spacing_mm
    image.ImageOrientationPatient = [_number(part) for part in geometry.orientation]
    image.PixelSpacing = [_number(rows), _number(columns)]
    image.SliceThickness = image.SpacingBetweenSlices = _number(slices)


def _add_mr(image: Dataset) -> None:
    """What the module of MR images asks for; no sequence was run, so all that may be empty is."""
    image.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    image.ScanningSequence, image.SequenceVariant = "RM", "NONE"
    image.ScanOptions = image.MRAcquisitionType = ""
    image.EchoTime = image.EchoTrainLength = image.RepetitionTime = None


def _add_ct(image: Dataset) -> None:
    """What the module of CT images asks for: stored numbers are Hounsfield units."""
    image.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = "0", "1", "HU"
    image.KVP = None


def _number(value: float) -> str:
    """A number in the 16 characters that DICOM gives it."""
    return format_number_as_ds(float(value))


def _age(person: Mapping[Hashable, Any]) -> str:
    """Whole years, if the table has an age in years."""
    for name in AGES:
        value = person.get(name)
        if isinstance(value, int | float | np.number) and 0 <= value < 1000:
            return f"{int(value):03d}Y"
    return ""
