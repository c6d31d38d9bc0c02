r"""The KL autoencoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752): 256 x 256 pixels as 32 x 32 x 4.

python -m nca_gen.main --config=configs/vae_kl.py:laptop --config.data.path=DIR --workdir=runs/vae_kl
python -m nca_gen.main --mode=encode --workdir=runs/vae_kl

The second line writes runs/vae_kl/latents, all that configs/geca.py needs. Published weights need no training:
python -m nca_gen.main --config=configs/vae_kl.py:sd --config.data.path=DIR --config.encode.weights=FILE \
    --workdir=runs/sd --mode=encode
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(
        {
            "seed": 0,
            "model": {
                "name": "vae_kl",
                "width": 64,
                "multipliers": (1, 2, 4),  # of the width, a level each; every level but the last halves the image
                "layers": 2,
                "latent_channels": 4,
                "groups": 32,
                "attention": True,
                "patch": 2,  # pixels a side that enter as channels
                "image_channels": 3,
                "dtype": "float32",
            },
            "task": {
                "name": "autoencode",
                "loss": "l1",
                "kl": 1e-6,
                "perceptual": "none",  # or "lpips" (published weights of VGG16), "random" (no file)
                "perceptual_weight": 1.0,
                "adversarial": 0.0,  # weight of the critic; 0.5 in the paper
                "start": 50_000,  # the critic's first step
                "adaptive": True,
                "critic": 64,
                "ema": 0.999,
                "ema_warmup": True,
            },
            "optimizer": {
                "lr": 2e-4,
                "b1": 0.9,
                "b2": 0.99,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "warmup": 200,
                "decay": 1.0,
                "cosine_steps": 0,
                "clip": 1.0,
                "muon": 0.0,
            },
            "data": {
                "name": "folder",
                "path": "",
                "reduce": 1,
                "resize": (256, 256),
                "patch": (256, 256),
                "flips": "horizontal",
                "split_seed": 0,
                "strict": False,
                "memory_gb": 2.0,
            },
            "train": {
                "steps": 100_000,
                "batch": 8,
                "log_every": 20,
                "eval_every": 5000,
                "checkpoint_every": 500,
                "keep": 3,
                "on_divergence": "stop",
                "max_rollbacks": 3,
                "divergence": 0.0,
            },
            "eval": {
                "metrics": ("psnr", "l1", "ms_ssim", "kl", "latent_mean", "latent_std"),
                "split": "val",
                "n": 64,
            },
            "encode": {
                "weights": "",  # a file in diffusers' format, in place of a trained workdir
                "flips": "horizontal",  # encode every image mirrored too, or "none"
                "batch": 8,
                "shard": 1024,  # images a file
            },
            "mesh": {"data": -1, "space": 1, "distributed": False},
        }
    )


def fundus(config):
    """Photographs of the back of the eye, each as a whole in 256 x 256, as is; the default."""
    config.data.update(resize=(256, 256), patch=(256, 256), flips="horizontal")


def folder(config):
    """Your own images at their own size, of which 256 x 256 are seen at a time; --config.data.path=DIR."""
    config.data.update(resize=None, patch=(256, 256), flips="all")
    config.encode.flips = "none"


def sd(config):
    """The architecture of Stable Diffusion's, 83,653,863 parameters: for its published weights, or a GPU."""
    config.model.update(width=128, multipliers=(1, 2, 4, 4), layers=2, groups=32, attention=True, patch=1)
    config.encode.batch = 4


def laptop(config):
    """For 4 cores; photographs of the eye come back at 32 dB after 300 steps, without their finest vessels."""
    config.model.update(width=48, multipliers=(1, 2), layers=1, groups=8, patch=4)
    config.task.update(kl=1e-3, perceptual="random", perceptual_weight=0.1, ema=0.995)
    config.optimizer.update(lr=1e-3, muon=0.02, warmup=50, cosine_steps=1000)
    config.train.update(steps=1000, batch=8, log_every=10, eval_every=500, checkpoint_every=100)


def smoke(config):
    """Seconds on a laptop: shows that every part works, not what it is worth."""
    config.model.update(width=8, multipliers=(1, 2), layers=1, groups=4, patch=2)
    config.task.update(perceptual="random", adversarial=0.5, start=2, critic=8)
    config.data = {"name": "tissue", "path": "", "reduce": 1, "patch": (32, 32), "flips": "all", "strict": True}
    config.train.update(steps=4, batch=4, log_every=1, eval_every=4, checkpoint_every=2)
    config.eval.n = 8
    config.encode.update(batch=8, shard=32)
