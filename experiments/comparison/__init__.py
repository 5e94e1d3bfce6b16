"""What ``experiments.compare_frameworks`` compares: models and backends, each in a process of its own."""

EXPERIMENT = "compare_frameworks"
EQUAL = "compare_frameworks_equal"
"""The comparison at equal recipes: results of its own, for the report has none."""
RECIPES = {EXPERIMENT: "each model at the report's recipe for it", EQUAL: "one recipe for all models"}
MODELS = {"segresnet": "SegResNet", "unet3d": "3D U-Net", "unet25d": "2.5D U-Net"}
BACKENDS = ("tensorflow", "torch", "jax")
"""The same Keras U-Nets on TensorFlow, torch and JAX: equal predictions from equal weights, and what a step costs."""
