r"""A U-Net outlines layers or vessels: what generated volumes with label maps are worth to it (CA-LDM's downstream).

python -m nca_gen.main --config=configs/segment.py:octa500 --workdir=runs/segment --config.data.path=DIR
python -m nca_gen.main --config=configs/segment.py:octa500 --workdir=runs/layers --mode=segment \
    --config.data.path=DIR --config.segment.expansions=ldm=FOLDER
python -m nca_gen.main --config=configs/segment.py:vessels,octa500 --workdir=runs/vessels --mode=segment \
    --config.data.path=DIR --config.segment.expansions=ldm=FOLDER --config.segment.resolutions=128,256

The first trains one segmenter; the others fill a table: real volumes, and real with 200 % generated ones, which lie in
FOLDER/images with their maps in FOLDER/label_maps; the last one also real ones of 128 and 256 voxels a side. CA-LDM
fills such a folder under the maps of its training split, and the whole way without a file is

python -m nca_gen.main --config=configs/ca_ldm.py:laptop,phantom,layers --mode=chain --workdir=runs/ca_ldm
python -m nca_gen.main --workdir=runs/ca_ldm/multislice --mode=expand --config.expand.times=2
python -m nca_gen.main --config=configs/segment.py:phantom,laptop --mode=segment --workdir=runs/segment \
    --config.segment.expansions=ca_ldm=runs/ca_ldm/multislice/expanded/fold0

Published:
layers between six surfaces, Dice 0.941 and 0.944, MAD 1.030 and 0.930; IoU of arteries 0.681 and 0.683 (0.427 and 0.589
of 128 and 256 voxels), of veins 0.677 and 0.680 (0.425 and 0.585). Your own volumes: without a form,
--config.data.path=DIR --config.data.label_maps=MAPS.
"""

from ml_collections import ConfigDict
from shared import recipes
from shared.evals import often

from nca_gen.data.layers import LAYERS, VESSELS

DATA = ("images", "octa500", "phantom")
ORDER = (("layers", "vessels"), DATA, ("laptop",), ("smoke",))  # of forms, however they are written


def get_config():
    config = ConfigDict(
        {
            "model": {"name": "segment_unet", "ndim": 3},
            "task": {"name": "segment"},
            "optimizer": {"lr": 1e-3, "cosine_steps": -1, "warmup": 100, "clip": 1.0},
            "data": {
                "name": "volumes",
                "path": "",
                "patch": (64, 128, 64),  # depth, height, width: B-scans, into the eye, along a B-scan
                "flips": "depth+horizontal",  # the eye's front stays above
            },
            "train": {"steps": 4000, "batch": 2, "log_every": 100, "checkpoint_every": 500, "keep": 1},
            "held": {"n": 16},
            "evals": {"segmentation": {"every": 1000}},
            "segment": {},
        }
    )
    layers(config)
    return config


def layers(config):
    """Layers of the retina between six surfaces, class by class from the front, which is the page as it is."""
    _known(config, LAYERS, ("dice:1+2+3+4+5", "mad"))


def vessels(config):
    """Arteries, veins, capillaries and the zone without, which are the same at any depth of a map."""
    _known(config, VESSELS, ("iou:2", "iou:3"))


def images(config):
    """Pictures of two dimensions: projections or B-scans, and maps of the same names; --config.data.path=DIR."""
    config.data = {"name": "folder", "path": "", "patch": (256, 256), "flips": "horizontal"}
    config.model.ndim = 2
    config.train.batch = 8


def octa500(config):
    """OCTA-500 as it lies, in 400 x 640 x 400 voxels; with :vessels of OCTA; --config.data.path=DIR."""
    config.data = {"name": "octa500", "path": "", "resize": None, "labels": _labels(config)} | _cut(config)
    if _labels(config) == "vessels":
        config.data.modality = "octa"


def phantom(config):
    """Retinas that never were, with their layers, or with :vessels their vessels: for a trial without a file.

    Those of configs/ca_ldm.py:phantom, with the same ones held out.
    """
    config.data = {"name": "retina_phantom", "n": 40, "labels": _labels(config)} | _cut(config)
    config.data.patch = (32, 64, 32)


def laptop(config):
    """Half as wide, patches of half the sides, 400 steps: minutes for each training on 4 cores."""
    config.model.update(width=8, levels=3)
    config.data.patch = tuple(side // 2 for side in config.data.patch)
    config.optimizer.update(lr=3e-3, warmup=20)
    config.train.update(steps=400, batch=4, log_every=50, checkpoint_every=100)
    often(config, 400)


def smoke(config):
    """Seconds, on retinas that are drawn: shows that every part works, not what it is worth."""
    phantom(config)
    config.model.update(ndim=3, width=8, levels=2)
    config.data.update(n=6, size=(8, 32, 16), patch=(8, 16, 8))
    config.held.n = 4
    config.optimizer.warmup = 2
    recipes.smoke(config)
    config.segment.update(repeats=2, draws=100)


def _known(config, names, figures):
    """The names of the classes, and the figures that are asked for."""
    config.model.classes = len(names)
    config.task.names = names
    config.evals.segmentation.metrics = figures
    config.segment.figures = figures


def _labels(config):
    """Which maps these classes are of."""
    return "vessels" if config.task.names == VESSELS else "layers"


def _cut(config):
    """What is cut out of a volume, and mirrored."""
    return {field: config.data[field] for field in ("patch", "flips")}
