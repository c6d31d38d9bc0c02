r"""ResNet-34 tells diseases apart: what synthetic images are worth to it (GeCA, section 2.4 and Table 2).

python -m nca_gen.main --config=configs/classifier.py --workdir=runs/classifier --config.data.path=DIR
python -m nca_gen.main --config=configs/classifier.py --workdir=runs/table --mode=classify --config.data.path=DIR \
    --config.classify.expansions=runs/geca/expanded,runs/dit/expanded

The first trains one classifier on your labelled folder; the second fills a table: five folds by patient, each without
augmentation, with geometric augmentation, and with what each generator adds. Published, on the private OCT-ML: mAP
64.58, 68.85, and 73.28 with GeCA-S.
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "seed": 0,
            "model": {
                "name": "resnet34",
                "classes": 5,
                "width": 64,  # the published one
                "weights": "",  # a local file of ImageNet's, such as resnet34-b627a593.pth
            },
            "task": {
                "name": "classify",
                "labels": "single",  # or "multi"
                "augment": "geometric",  # or "none"; --mode=classify sets it row by row
                "flips": "horizontal",
                "rotation": 15.0,  # degrees, either way
                "zoom": 0.8,  # smallest side that is cut out
                "pos_weight": (),
            },
            "optimizer": {
                "lr": 1e-4,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "warmup": 0,
                "decay": 1.0,
                "cosine_steps": 0,
                "clip": 0.0,
                "muon": 0.0,
            },
            "data": {
                "name": "folder",
                "path": "",
                "resize": (224, 224),
                "split_seed": 0,
                "patch": (224, 224),  # the images as they are classified
                "flips": "none",  # the task does that
                "strict": False,
                "memory_gb": 2.0,
            },
            "train": {
                "steps": 4000,
                "batch": 32,
                "log_every": 100,
                "eval_every": 1000,
                "checkpoint_every": 500,
                "keep": 1,
                "on_divergence": "stop",
                "max_rollbacks": 3,
                "divergence": 0.0,
            },
            "eval": {
                "metrics": ("sensitivity", "specificity", "auc", "f1", "f1_sen_spe", "map"),
                "split": "val",
            },
            "classify": {
                "folds": 5,  # by patient; 1: the data's own split, validated on eval.split
                "of": ("train",),  # the splits that the folds are made of
                "repeats": 1,  # trainings of each fold
                "seed": 0,
                "augment": "geometric",  # of the rows with synthetic images
                "expansions": (),  # folders of --mode=expand
                "pool": "image",  # or "eye", "patient"
                "eye": "",
                "draws": 2000,
                "keep": False,
            },
            "mesh": {"data": -1, "space": 1, "distributed": False},
        }
    )


def folder(config):
    """Your own images with a labels.csv, which is what the page above is for; --config.data.path=DIR."""


def retinamnist(config):
    """RetinaMNIST, 28 pixels a side: five grades, the official split; --config.data.path=DIR with retinamnist.npz."""
    shape = {"size": 28, "reduce": 1, "pad": 2, "patch": (32, 32), "flips": "none"}
    config.data = {"name": "retinamnist", "path": "", "cache": "", "strict": False, "memory_gb": 2.0, **shape}
    config.eval.split = "test"
    config.classify.update(folds=1, repeats=5)


def oct_ml(config):
    """OCT scans with eleven labels each, folds by table, judged per eye; --config.data.path=DIR."""
    shape = {"fold": 0, "size": 224, "patient": "patient_name", "patch": (224, 224), "flips": "none"}
    config.data = {"name": "oct_ml", "path": "", "cache": "", "strict": False, "memory_gb": 2.0, **shape}
    config.model.classes = 11
    config.task.labels = "multi"
    config.classify.pool = "eye"


def laptop(config):
    """A quarter as wide, 64 pixels a side: about 4 steps a second on 4 cores, a minute for each cell of the table."""
    config.model.width = 16
    if "resize" in config.data:
        config.data.update(resize=(64, 64), patch=(64, 64))
    config.optimizer.update(lr=1e-3, cosine_steps=250)
    config.train.update(steps=250, log_every=50, eval_every=250, checkpoint_every=125)


def smoke(config):
    """Seconds, on eyes that are drawn: shows that every part works, not what it is worth."""
    config.model.width = 4
    shape = {"size": 32, "patients": 20, "grades": 5, "seed": 0, "patch": (32, 32), "flips": "none"}
    config.data = {"name": "spots", "strict": True, **shape}
    config.train.update(steps=4, batch=4, log_every=1, eval_every=4, checkpoint_every=2)
    config.classify.update(folds=2, draws=100)
