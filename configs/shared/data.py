"""Forms that change the data, for several pages."""

IMAGES = ("bcss", "celeba", "folder", "retinamnist", "slides")  # their names, for the order of a page
VOLUMES = ("volumes", "hippocampus", "phantom")  # behind a size, which says how large cells are


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
    _of_volumes(config, {"name": "volumes", "path": ""}, (32, 32, 32))


def hippocampus(config):
    """Whole small volumes, such as Task04 of the Medical Segmentation Decathlon (MRI); --config.data.path=DIR."""
    side = (32, 48, 32)
    data = {"name": "volumes", "path": "", "resize": side, "percentiles": (0, 99.5), "flips": "horizontal"}
    _of_volumes(config, data, side, mean=0.09, std=0.48)


def phantom(config):
    """Retinas that never were, drawn by code: volumes for a trial without a file."""
    side = (32, 32, 32)
    data = {"name": "retina_phantom", "size": side, "n": 40, "flips": "depth+horizontal"}
    _of_volumes(config, data, side, mean=-0.4, std=0.38)


def _of_volumes(config, data, sides, **moments):
    """Volumes of one channel in place of images; behind the form of a size, which says how large cells are.

    ``moments``: mean and deviation of the training volumes, where they are known.
    """
    config.codec = {"block": 1, **config.get("codec", {})} | {name: (value,) for name, value in moments.items()}
    config.data = data | {"patch": sides}
    config.model.update(ndim=3, image_channels=config.codec.block**3)
    config.sample.update(size=sides, large=(), n=4, batch=4)
    config.evals.scores = {"every": config.evals.scores.every, "metrics": ("drift", "total_variation")}
