"""DICOM series in geometric order, and the MGMT cohort made of them."""
