"""From a patient's DICOM series to the scans that segmentation networks take, and their answer back as DICOM."""
