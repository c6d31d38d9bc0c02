r"""GeCA (Elbatel et al. 2024, MICCAI): gene-heredity cells that paint retinas of every grade, and its two rivals.

python -m nca_gen.main --config=configs/geca.py --config.data.path=runs/vae_kl --workdir=runs/geca
python -m nca_gen.main --config=configs/geca.py:pixels,laptop --config.data.path=DIR --workdir=runs/geca_pixels
python -m nca_gen.main --mode=evaluate --workdir=runs/geca --config.eval.heredity=none,hidden,out,both \
    --config.eval.guidance=1.0,1.5 --config.eval.growth=2,4,8,12,16,24,32

The first line trains on the latents that configs/vae_kl.py and --mode=encode have made, the second on RetinaMNIST as it
is; any form goes with any other. The paper's numbers on 1080 fundus photographs, KID and LPIPS of 256 x 256 pixels:

form      parameters   KID x1000   LPIPS
(GeCA-S)  13,307,976        7.42     .39   heredity none 19.37, out 44.22, both 12.84
xs         2,253,416
dit       32,630,816       12.45     .31
ldm       17,372,552       11.64     .37   our reading of an unpublished configuration
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "seed": 0,
            "model": {
                "name": "geca",
                "embed": 768,
                "heads": 12,
                "mlp": 3072,
                "hidden": 64,
                "steps": 12,
                "fire_rate": 0.5,
                "classes": 5,
                "learned_variance": True,
                "hidden_seed": "zeros",  # or "centre", as the paper has it
                "border": "zero",  # as published; "mask" gives no attention to what lies outside
                "remat": "out",
                "dtype": "bfloat16",
                "image_channels": 4,
            },
            "diffusion": {
                "schedule": "linear",
                "timesteps": 1000,
                "prediction": "eps",
                "mean": (0.0,),  # latents come standardised
                "std": (1.0,),
                "block": 1,
            },
            "task": {
                "name": "denoise",
                "loss": "l2",
                "ema": 0.9999,
                "ema_warmup": True,
                "label_drop": "row",  # "entry" as published
                "drop": 0.1,
                "vb": 1.0,
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
                "name": "latents",
                "path": "",
                "patch": (32, 32),  # latents, of 8 x 8 pixels each
                "flips": "none",  # mirrored images have latents of their own
                "strict": False,
                "memory_gb": 2.0,
            },
            "train": {
                "steps": 112_000,
                "batch": 128,
                "log_every": 50,
                "eval_every": 8000,
                "checkpoint_every": 1000,
                "keep": 3,
                "on_divergence": "stop",
                "max_rollbacks": 3,
                "divergence": 0.0,
            },
            "sample": {
                "sampler": "ddpm",
                "steps": 250,
                "clip": "none",
                "guidance": 1.5,
                "heredity": "hidden",
                "growth": (),  # steps of the cells a call, over equal stretches of sampling; as trained
                "labels": (),  # classes in turn; all
                "n": 40,
                "batch": 64,
                "size": (32, 32),
                "large": (),
            },
            "generate": {"name": "sample", "torus": False},
            "expand": {
                "name": "expanded",
                "times": 5,
                "fold": -1,  # of folds by patient; -1: the labels of the train split
                "folds": 5,
                "split_seed": 0,
                "quantile": 0.05,  # of new real images lie nearer to a training image than what is drawn again
                "tries": 10,
            },
            "study": {"runs": (), "n": 256, "train": 1080, "split": "test", "metrics": ()},
            "eval": {
                "metrics": ("swd", "drift", "neighbours"),
                "split": "test",
                "n": 256,
                "train": 1080,
                "samplers": (),
                "heredity": (),
                "guidance": (),
                "growth": (),
            },
            "bench": {"what": ("peer", "rivals"), "batch": 2, "rounds": 3, "peer_python": ""},
            "mesh": {"data": -1, "space": 1, "distributed": False},
        }
    )


def pixels(config):
    """RetinaMNIST without an autoencoder, 28 pixels framed to 32, 2 x 2 of them a cell; --config.data.path=DIR."""
    shape = {"size": 28, "reduce": 1, "pad": 2, "patch": (32, 32), "flips": "horizontal"}
    config.data = {"name": "retinamnist", "path": "", "cache": "", "strict": False, "memory_gb": 2.0, **shape}
    config.diffusion.update(mean=(-0.39, -0.63, -0.76), std=(0.62, 0.41, 0.29), block=2)  # of the training images
    config.model.image_channels = 12


def oct(config):
    """Eleven findings at once, of latents of OCT-ML."""
    config.model.classes = 11


def xs(config):
    """GeCA-XS."""
    config.model.update(embed=384, heads=6, mlp=64, hidden=32)


def dit(config):
    """DiT-S/2 in place of the cells; all else equal."""
    _rival(config, name="dit", width=384, depth=12, heads=6, patch=2)


def ldm(config):
    """The U-Net of latent diffusion in place of the cells; all else equal."""
    _rival(config, name="unet", width=64, multipliers=(1, 2, 2, 4), blocks=2, attention=(1, 2), head=32)


def _rival(config, **fields):
    shared = ("classes", "learned_variance", "dtype", "image_channels")
    config.model = fields | {"remat": "none"} | {field: config.model[field] for field in shared}
    config.sample.heredity = "none"  # it has no cells that could inherit


def laptop(config):
    """A small one of each model, cells of 2 x 2: of GeCA 0.6 steps a second on one core."""
    small = {
        "geca": {"embed": 192, "heads": 6, "mlp": 384, "hidden": 32, "steps": 8},
        "dit": {"width": 192, "depth": 8, "heads": 6},
        "unet": {"width": 32, "head": 16},
    }
    config.model.update(small[config.model.name], dtype="float32")
    config.model.image_channels = 4 * config.model.image_channels // config.diffusion.block**2
    config.diffusion.block = 2
    config.diffusion.prediction = "v"  # whose first pictures have the right colours
    config.task.ema = 0.998
    config.optimizer.update(lr=1e-3, b2=0.99, muon=0.02, warmup=50, cosine_steps=4000, clip=1.0)
    config.train.update(steps=4000, batch=16, log_every=20, eval_every=2000, checkpoint_every=250)
    config.sample.update(steps=50, n=20)
    config.eval.update(n=64)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth. Without latents, on tissue."""
    small = {
        "geca": {"embed": 16, "heads": 2, "mlp": 16, "hidden": 4, "steps": 3},
        "dit": {"width": 16, "depth": 1, "heads": 2},
        "unet": {"width": 32, "head": 16, "multipliers": (1, 1), "blocks": 1, "attention": (2,)},
    }
    config.model.update(small[config.model.name], dtype="float32")
    if config.data.name == "latents":
        config.data = {"name": "tissue", "path": "", "reduce": 1, "patch": (16, 16), "flips": "all", "strict": False}
        config.model.update(classes=0, image_channels=12)
        config.diffusion.update(std=(0.5,), block=2)
        config.sample.size = (16, 16)
    config.diffusion.timesteps = 8
    config.train.update(steps=4, batch=4, log_every=1, eval_every=4, checkpoint_every=2)
    config.sample.update(steps=4, n=10, batch=8)
    config.eval.update(n=8, train=16)
