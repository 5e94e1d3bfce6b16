"""SegResNet (MONAI, PyTorch, Lightning) for glioma sub-regions: the report's Table 1 and its variations."""
