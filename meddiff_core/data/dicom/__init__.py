"""DICOM: which files of a folder make one scan, what each scan shows, and its voxels.

Headers are read by pydicom and pixels are converted by dcm2niix, the field's own tools; what lies between them
is here: the decision whether a stack of slices is one even volume, in terms of displacement.
"""

from meddiff_core.data.dicom.header import is_dicom
from meddiff_core.data.dicom.index import DicomIndex, DicomSeries, index_dicom
from meddiff_core.data.dicom.volume import read_series

__all__ = ["DicomIndex", "DicomSeries", "index_dicom", "is_dicom", "read_series"]
