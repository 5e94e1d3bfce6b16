"""DICOM series in geometric order, and the MGMT cohort made of them."""

from common.dicom.pixels import DicomError
from common.dicom.series import look, plane_of, read_series

__all__ = ["DicomError", "look", "plane_of", "read_series"]
