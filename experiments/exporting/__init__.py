"""What leaves the suite: networks as files for other programs, cohorts for nnU-Net, runs for trackers."""
