"""MGMT promoter methylation from MRI: a 3D ResNet10 per contrast and their weighted average. Research software."""
