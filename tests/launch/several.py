"""`python several.py COMMANDS.json`: one of several processes does one verb after the other, each as on a command line."""

import json
import sys
from pathlib import Path

from nca_gen import main

if __name__ == "__main__":
    for command in json.loads(Path(sys.argv[1]).read_text()):
        if code := main.run(command):
            sys.exit(code)
