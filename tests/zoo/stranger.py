"""A process that cannot import the user's code: it loads files, runs them and writes the outputs.

Reads one line per job on standard input, three paths and a number, `model <tab> inputs
<tab> outputs <tab> threads`; answers `done` or the error. Started by `checks.Stranger`, not
imported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_FOREIGN = ("transformers", "tests", "huggingface_hub")


class _NotHere:
    """The finder that finds nothing of the user's."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in _FOREIGN:
            raise ModuleNotFoundError(f"{name} belongs to the user", name=name)


def main() -> None:
    """Answer jobs until standard input ends."""
    sys.meta_path.insert(0, _NotHere())
    import torch
    from safetensors.torch import load_file, save_file
    from torch.utils._pytree import tree_leaves

    from compressc.frontend import load_model
    from compressc.ir import lower

    for line in sys.stdin:
        model, inputs, outputs, threads = line.rstrip("\n").split("\t")
        torch.set_num_threads(int(threads))  # sums are split by threads
        try:
            graph = load_model(Path(model)).graph
            given = {key: value.clone() for key, value in load_file(inputs).items()}  # aligned
            with torch.no_grad():
                found = tree_leaves(lower(graph)(*(given[str(i)] for i in range(len(given)))))
            save_file({str(i): t.clone().contiguous() for i, t in enumerate(found)}, outputs)
            print("done", flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
