"""Figures 1 to 18 of the report, in one style, from a cohort of scans and from finished runs."""
