"""Synthetic patients on the MNI152 template, as NIfTI and as DICOM."""
