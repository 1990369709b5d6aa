"""Data from a `.npz` file, read without pickle, or from a function the user names and trusts."""

from __future__ import annotations

import difflib
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from compressc.data.arrays import bad, to_labels, to_tensor
from compressc.data.checks import check_inputs, check_labels
from compressc.data.dataset import Dataset, Split, as_dataset
from compressc.data.splitting import assemble, divide

TEST_SHARE = 0.2
KEYS = "x (or x0, x1, ...) and y, or x_train, y_train, x_test, y_test"

_INPUT = re.compile(r"x(\d*)(_train|_test)?")
_LABEL = re.compile(r"y(_train|_test)?")


def read_npz(path: Path, seed: int = 0) -> Dataset:
    """Read a data set from a `.npz` file.

    Keys: `x` `[n, ...]`, or `x0`, `x1`, ... for a model of several inputs, and `y` `[n, ...]` where
    there are labels. These are divided 80 : 20 into train and test, each class in proportion. With
    `x_train`, `y_train`, `x_test`, `y_test` (`x0_train`, ...) the division is the file's own.
    Calibration is up to 256 samples of train. float64 becomes float32.

    Args:
        path: the file.
        seed: of the division. It is not the seed of a run: runs compare only on one test part.

    Raises:
        CompresscError: CC300 where the file is missing, damaged, holds pickled objects or keys
            that mean nothing here, or where its arrays do not fit together.
    """
    arrays = _arrays(path)
    _check_keys(arrays, path)
    name, explicit = path.name, any(key.endswith(("_train", "_test")) for key in arrays)
    if explicit:
        train, test = (_part(arrays, part, path) for part in ("_train", "_test"))
        return assemble(name, train, test, seed)
    whole = _part(arrays, "", path)
    if len(whole) < 2:
        hint = "or give x_train and x_test"
        raise bad("a file to be divided holds two samples or more", "1", name, hint)
    count = max(1, round(len(whole) * TEST_SHARE))
    chosen, rest = divide(whole.labels, len(whole), count, seed)
    return assemble(name, whole.select(rest), whole.select(chosen), seed)


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    if not path.is_file():
        raise bad("the data file exists", "no such file", str(path), "check the path")
    try:
        # allow_pickle stays False: a data file must not be able to run code
        with np.load(path, allow_pickle=False) as loaded:
            return {key: loaded[key] for key in loaded.files}
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise _damaged(path, error) from error
        raise bad(
            "arrays in a .npz file hold numbers",
            "pickled Python objects",
            str(path),
            "pickle can run code: save numeric arrays with numpy.savez",
        ) from error
    # AttributeError, TypeError: a .npy file under the name .npz loads as an array
    except (
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        AttributeError,
        TypeError,
    ) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> Exception:
    got = f"{type(error).__name__}: {error}"
    return bad("the file is a .npz archive", got, str(path), "write it with numpy.savez")


def _check_keys(arrays: dict[str, np.ndarray[Any, Any]], path: Path) -> None:
    unknown = [key for key in arrays if not (_INPUT.fullmatch(key) or _LABEL.fullmatch(key))]
    if unknown:
        # an unread `label` would silently turn a labelled set into one without
        wanted = f"the keys of a .npz data file are {KEYS}"
        near = difflib.get_close_matches(unknown[0], ["x", "x_train", "x_test", "y_train"], 1)
        hint = f"rename it to {near[0]!r} or leave it out" if near else "rename it or leave it out"
        raise bad(wanted, f"key {unknown[0]!r}", str(path), hint)
    plain = [key for key in arrays if not key.endswith(("_train", "_test"))]
    if plain and len(plain) < len(arrays):
        raise bad(
            "a .npz data file holds one undivided set, or a train and a test part",
            ", ".join(sorted(arrays)),
            str(path),
            f"the keys are {KEYS}",
        )


def _part(arrays: dict[str, np.ndarray[Any, Any]], part: str, path: Path) -> Split:
    keys = _input_keys(arrays, part, path)
    inputs: tuple[Tensor, ...] = tuple(to_tensor(arrays[key], f"{path}, {key}") for key in keys)
    check_inputs(inputs, f"{path}, {' and '.join(keys)}")
    label_key = f"y{part}"
    if label_key not in arrays:
        return Split(inputs)
    labels = to_labels(arrays[label_key], f"{path}, {label_key}")
    check_labels(labels, len(inputs[0]), f"{path}, {label_key}")
    return Split(inputs, labels)


def _input_keys(arrays: dict[str, np.ndarray[Any, Any]], part: str, path: Path) -> list[str]:
    names = [m[1] for key in arrays if (m := _INPUT.fullmatch(key)) and (m[2] or "") == part]
    wanted = [""] if names == [""] else [str(i) for i in range(len(names))]
    if names and sorted(names) == sorted(wanted):
        return [f"x{name}{part}" for name in wanted]
    raise bad(
        f"a .npz data file has the key x{part}, or x0{part}, x1{part}, ... without a gap",
        f"keys {', '.join(sorted(arrays)) or 'none'}",
        str(path),
        f"the keys are {KEYS}",
    )


def call_function(path: Path, function: str) -> Dataset:
    """Run `function` of the Python file `path`, which the user named: trusted code.

    While it runs, the file's folder is importable, as it is for `python file.py`.

    Raises:
        CompresscError: CC300 where the file or the function is missing, either of them raises, or
            what comes back does not follow the protocol of `compressc.data.dataset`.
    """
    from compressc.data.python_file import run_function

    return as_dataset(run_function(path, function), f"{path.name}:{function}")
