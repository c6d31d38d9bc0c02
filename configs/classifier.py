r"""ResNet-34 tells diseases apart: what synthetic images are worth to it (GeCA, section 2.4 and Table 2).

python -m nca_gen.main --config=configs/classifier.py --workdir=runs/classifier --config.data.path=DIR
python -m nca_gen.main --config=configs/classifier.py --workdir=runs/table --mode=classify --config.data.path=DIR \
    --config.classify.expansions=runs/geca/expanded,runs/dit/expanded

The first trains one classifier on your labelled folder; the second fills a table: five folds by patient, each without
augmentation, with geometric augmentation, and with what each generator adds. Published, on the private OCT-ML: mAP
64.58, 68.85, and 73.28 with GeCA-S.
"""

from ml_collections import ConfigDict
from shared import recipes
from shared.evals import often

ORDER = (("folder", "retinamnist", "oct_ml"), ("laptop",), ("smoke",))  # of forms, however they are written


def get_config():
    return ConfigDict(
        {
            "model": {
                "name": "resnet34",
                "classes": 5,
                "weights": "",  # a local file of ImageNet's, such as resnet34-b627a593.pth
            },
            "task": {"name": "classify", "augment": "geometric"},  # --mode=classify sets it row by row
            "optimizer": {},
            "data": {
                "name": "folder",
                "path": "",
                "resize": (224, 224),
                "patch": (224, 224),  # the images as they are classified
                "flips": "none",  # the task does that
            },
            "train": {"steps": 4000, "batch": 32, "log_every": 100, "checkpoint_every": 500, "keep": 1},
            "held": {"split": "val"},
            "evals": {"confusion": {"every": 1000}},
            "classify": {},
        }
    )


def folder(config):
    """Your own images with a labels.csv, which is what the page above is for; --config.data.path=DIR."""


def retinamnist(config):
    """RetinaMNIST, 28 pixels a side: five grades, the official split; --config.data.path=DIR with retinamnist.npz."""
    config.data = {"name": "retinamnist", "path": "", "pad": 2, "patch": (32, 32), "flips": "none"}
    config.held.split = "test"
    config.classify.update(folds=1, repeats=5)


def oct_ml(config):
    """OCT scans with eleven labels each, folds by table, judged per eye; --config.data.path=DIR."""
    config.data = {"name": "oct_ml", "path": "", "size": 224, "patch": (224, 224), "flips": "none"}
    config.model.classes = 11
    config.task.labels = "multi"
    config.classify.pool = "eye"


def laptop(config):
    """A quarter as wide, 64 pixels a side: about 4 steps a second on 4 cores, a minute for each cell of the table."""
    config.model.width = 16
    if "resize" in config.data:
        config.data.update(resize=(64, 64), patch=(64, 64))
    config.optimizer.update(lr=1e-3, cosine_steps=250)
    config.train.update(steps=250, log_every=50, checkpoint_every=125)
    often(config, 250)


def smoke(config):
    """Seconds, on eyes that are drawn: shows that every part works, not what it is worth."""
    config.model.width = 4
    config.data = {"name": "spots", "patients": 20, "patch": (32, 32), "flips": "none"}
    recipes.smoke(config)
    config.classify.update(folds=2, draws=100)
