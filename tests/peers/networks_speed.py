"""CA-LDM's networks beside their twins in plain PyTorch: a call and a training step of each, at small size, in turns.

    python tests/peers/networks_speed.py PYTHON [NETWORK ...]

PYTHON has torch. For each network and kind a line: seconds and CPU seconds, medians of ROUNDS of every worker in turn,
and peak memory of a process that compiles nothing; then ours by theirs. A worker is this file with a case as JSON.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).absolute()
sys.path += [str(HERE.parent), str(HERE.parents[2])]  # the other peers, and the package
ROUNDS = 5
PLANAR = {"width": 32, "multipliers": (1, 2, 4), "blocks": 2, "latent_channels": 4, "groups": 8}
LATENT = {"image_channels": 4, "groups": 8, "heads": 4, "width": 32, "multipliers": (1, 2, 4), "blocks": 2}
CASES = {  # fields, and the shape of what goes in
    "encoder2d": (PLANAR, (4, 64, 64, 1)),
    "decoder2d": (PLANAR, (4, 16, 16, 4)),
    "multislice": (PLANAR, (1, 5, 16, 16, 4)),
    "encoder3d": ({"width": 32, "multipliers": (1, 2, 4), "latent_channels": 4, "groups": 8}, (1, 64, 64, 64, 1)),
    "uniaxial": ({"latent_channels": 4, "levels": 3, "groups": 4}, (1, 8, 16, 16, 4)),
    "diff3d": (LATENT | {"ndim": 3, "attention": (2, 4), "context_channels": 0}, (1, 16, 16, 16, 4)),
    "refiner": (LATENT | {"ndim": 2, "attention": (2, 4), "context_channels": 4}, (8, 16, 16, 4)),
    "critic": ({"width": 32, "layers": 3, "image_channels": 1}, (8, 64, 64, 1)),
}


def theirs(name, kind):
    """The peer's: Adam on the mean of what the network says, squared."""
    import torch
    import torch_ca_ldm as peer
    from torch_diff_nca import timed
    from torch_vae_kl import PatchDiscriminator

    torch.manual_seed(0)
    fields, (n, *sides, channels) = CASES[name]
    fields, extra = dict(fields), []
    if "heads" in fields:
        context, outputs = fields.pop("context_channels"), fields.pop("image_channels")
        channels = outputs + context
        net, extra = peer.UNet(channels, outputs, **fields), [torch.full((n,), 500)]
    elif name == "multislice":
        (slices, *sides), net = sides, peer.Decoder2D(**fields, slices=5)
        n = n * slices
    else:
        makes = {"encoder2d": peer.Encoder2D, "decoder2d": peer.Decoder2D, "encoder3d": peer.Encoder3D}
        makes |= {"uniaxial": peer.Uniaxial, "critic": PatchDiscriminator}
        net = makes[name](**fields) if name != "critic" else makes[name](*fields.values())
    x = torch.randn(n, channels, *sides)
    adam = torch.optim.Adam(net.parameters(), 1e-4)

    def step():
        adam.zero_grad()
        net(x, *extra).square().mean().backward()
        adam.step()

    if kind == "train":
        timed(step)
    with torch.no_grad():
        timed(lambda: net(x, *extra))


def ours(name, kind):
    """The same of ours."""
    import jax
    import optax

    from nca_gen.models import ca_ldm, unet
    from nca_gen.verbs.bench_worker import peak_mb

    fields, shape = CASES[name]
    model = ca_ldm.model(name, **fields)
    params = jax.jit(model.init)(jax.random.key(0))
    x, adam = jax.random.normal(jax.random.key(1), shape), optax.adam(1e-4)
    t, cond = jax.numpy.full(shape[0], 500), {"image": x} if fields.get("context_channels") else None
    told = isinstance(model, unet.Model)
    call = lambda params: model.apply(params, x, t, cond, (), None)[0] if told else model.apply(params, x)

    def step(params, state):
        grads = jax.grad(lambda params: (call(params) ** 2).mean())(params)
        moves, state = adam.update(grads, state)
        return optax.apply_updates(params, moves), state

    program = jax.jit(step, donate_argnums=(0, 1)) if kind == "train" else jax.jit(call)
    given = (params, jax.jit(adam.init)(params)) if kind == "train" else (params,)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        done = jax.block_until_ready(program(*given))
        times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        given = done if kind == "train" else given
        print(json.dumps(times | {"memory_mb": peak_mb()}), flush=True)


def main(python, names):
    """Says the table."""
    from nca_gen.verbs.bench_harness import Worker, measure

    print(f"{'network':12}{'kind':7}{'seconds':>9}{'CPU s':>9}{'MB':>7}   ours by theirs", flush=True)
    for name in names or CASES:
        for kind in ("call", "train"):
            case = lambda who: json.dumps({"who": who, "name": name, "kind": kind})  # noqa: B023
            workers = {"ours": Worker([sys.executable, str(HERE), case("ours")])}
            workers |= {"theirs": Worker([python, str(HERE), case("theirs")])}
            a, b = measure(workers, ROUNDS)
            of = ("seconds", "cpu_seconds", "memory_mb")
            ratios = "  ".join(f"{a[k] / b[k]:.2f}" for k in of)
            row = f"{a['seconds']:9.4f}{a['cpu_seconds']:9.4f}{a['memory_mb']:7.0f}"
            print(f"{name:12}{kind:7}{row}   {ratios}", flush=True)


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):
        case = json.loads(sys.argv[1])
        {"ours": ours, "theirs": theirs}[case["who"]](case["name"], case["kind"])
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
            main(sys.argv[1], sys.argv[2:])
