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


def slides(config):
    """Your own slides, or tiled TIFF or OME-Zarr of any size, where there is tissue; --config.data.path=DIR."""
    config.data = {"name": "slides", "path": "", "patch": (64, 64)}


def volumes(config):
    """Your own volumes of one channel: NIfTI, numpy, or a folder of B-scans each; --config.data.path=DIR."""
    block = config.get("codec", {}).get("block", 1)
    config.data = {"name": "volumes", "path": "", "patch": (32, 32, 32)}
    config.model.update(ndim=3, image_channels=block**3)
    config.sample.update(size=(32, 32, 32), large=(), n=4, batch=4)
    config.evals.scores = {"every": config.evals.scores.every, "metrics": ("drift", "total_variation")}
