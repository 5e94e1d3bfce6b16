"""The former name of ``common.dicom.mgmt_cohort``, under which commands and imports still find it."""

import sys

from common.dicom.mgmt_cohort import *  # noqa: F403
from common.dicom.mgmt_cohort import main

if __name__ == "__main__":
    print("this command has moved: python -m common.dicom.mgmt_cohort", file=sys.stderr)
    main()
