"""Where the audit of an MGMT cohort was: it is ``python -m common.dicom.mgmt_cohort`` now."""

import sys

if __name__ == "__main__":
    sys.exit("error: this command has moved: python -m common.dicom.mgmt_cohort takes the same arguments")
