"""What ``experiments.compare_frameworks`` compares: models and backends, each in a process of its own."""

EXPERIMENT = "compare_frameworks"
MODELS = {"segresnet": "SegResNet", "unet3d": "3D U-Net", "unet25d": "2.5D U-Net"}
BACKENDS = ("tensorflow", "torch", "jax")
