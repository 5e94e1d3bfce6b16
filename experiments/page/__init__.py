"""The written report: what the run folders hold, as one page that opens without a network, or as plain tables."""
