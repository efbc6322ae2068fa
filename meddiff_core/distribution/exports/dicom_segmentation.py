"""A DICOM segmentation on exactly the grid of its images, made by highdicom.

Empty frames are written too: a segmentation with fewer slices than its image is put in the wrong place by programs that
count them. What highdicom draws at random or takes from the clock is replaced, so that two exports are equal.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset

NO_DATE, NO_TIME = "19700101", "000000"
"""Where DICOM insists on a date: a segmentation's content must have one, and this one was not drawn on any day."""
CATEGORY = ("123037004", "SCT", "Body structure")
FAMILY = ("123110", "DCM", "Artificial Intelligence")
PRIVATE = "99MEDDIFF"
"""Scheme of codes for structures, which a release names in words alone."""
LONG = 64


def segmentation_of(
    images: Sequence[Dataset],
    frames: NDArray[np.generic],
    names: Mapping[str, int],
    uid: Callable[[str], str],
    comment: str,
) -> Dataset:
    """The segmentation of label values (slice, row, column), for images that have no pixels any more."""
    first = images[0]
    found: Any = Segmentation(
        source_images=images,
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=[_describe(name, value, first.SoftwareVersions) for name, value in names.items()],
        series_instance_uid=uid("segmentation series"),
        series_number=2,
        sop_instance_uid=uid("segmentation"),
        instance_number=1,
        manufacturer=first.Manufacturer,
        manufacturer_model_name=first.ManufacturerModelName,
        software_versions=first.SoftwareVersions,
        device_serial_number=first.DeviceSerialNumber,
        omit_empty_frames=False,
        content_label="STRUCTURES",
        content_description="Synthetic label map",
        series_description="Synthetic label map",
    )
    _fix(found, uid("dimensions"))
    found.SyntheticData = "YES"
    found.PatientComments, found.ImageComments = first.PatientComments, comment
    return found  # type: ignore[no-any-return]


def _describe(name: str, value: int, version: str) -> SegmentDescription:
    meaning = name[:LONG]
    return SegmentDescription(
        segment_number=value,
        segment_label=meaning,
        segmented_property_category=CodedConcept(*CATEGORY),
        segmented_property_type=CodedConcept(f"structure-{value}", PRIVATE, meaning),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name="meddiff", family=CodedConcept(*FAMILY), version=version
        ),
    )


def _fix(found: Any, dimensions: str) -> None:
    found.ContentDate, found.ContentTime = NO_DATE, NO_TIME
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        if keyword in found:
            del found[keyword]
    for item in (*found.DimensionOrganizationSequence, *found.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    for equipment in found.get("ContributingEquipmentSequence", ()):
        if "ContributionDateTime" in equipment:
            del equipment.ContributionDateTime
