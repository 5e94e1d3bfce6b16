"""What the segmentation experiments share."""
