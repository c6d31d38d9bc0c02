"""torchvision beside a torch that its compiled operators do not fit, and peers' networks without a download.

Import this before anything that imports torchvision: importing that fails at describing operators that did not load,
and no network here needs them (boxes, deformable convolution).
"""

import torch

described = torch.library.register_fake


def register(op, *rest, **options):
    if isinstance(op, str) and op.startswith("torchvision::"):
        return lambda f: f
    return described(op, *rest, **options)


torch.library.register_fake = register
try:
    import torchvision  # noqa: F401
finally:
    torch.library.register_fake = described


def fidelity_inception(layers, state=None):
    """torch-fidelity's Inception with the tensors of ``state``, else as torch initialises it; it would load a file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Initialised(FeatureExtractorInceptionV3):
        def load_state_dict(self, loaded):
            return super().load_state_dict(loaded) if loaded else None

    load, torch.load = torch.load, lambda *_, **__: state
    try:
        return Initialised("inception-v3-compat", list(layers), feature_extractor_weights_path="none")
    finally:
        torch.load = load
