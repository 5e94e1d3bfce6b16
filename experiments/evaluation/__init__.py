"""Label maps of any method on one cohort, brought to the truth's grid, scored, compared and ranked."""
