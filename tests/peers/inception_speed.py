"""The yardstick: features of torch-fidelity's Inception, random weights. Imports nothing of nca_gen.

`python inception_speed.py '{"batch": 32, "size": 64}'` computes the features of a batch for every line of standard
input, and says its seconds, images, images a second, and the peak memory so far as JSON.
"""

import json
import sys
import time
import warnings

import torch
from torch_diff_nca import peak_mb
from vision import fidelity_inception


def main(case):
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    net, size = fidelity_inception(["2048"]), case["size"]
    images = torch.randint(0, 256, (case["batch"], 3, size, size), dtype=torch.uint8)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            net(images)
        seconds = time.perf_counter() - start
        row = {"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "memory_mb": peak_mb()}
        print(json.dumps(row | {"images": len(images), "images_per_second": len(images) / seconds}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
