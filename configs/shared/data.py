"""Forms that change the data, for several pages."""


def bcss(config):
    """Sections of breast cancer, placed by hand and reduced by 4, as in the paper; --config.data.path=DIR."""
    config.data = {"name": "bcss", "path": "", "patch": (64, 64)}


def celeba(config):
    """Faces, placed by hand; whole images of 178x218, resized as in the paper; --config.data.path=DIR."""
    config.data = {"name": "celeba", "path": "", "patch": (64, 64), "flips": "horizontal"}


def folder(config):
    """Your own images: PNG, JPEG or TIFF, with an optional labels.csv; --config.data.path=DIR."""
    config.data = {"name": "folder", "path": "", "patch": (64, 64), "flips": config.data.get("flips", "all")}
