"""Every form that data may come in gives the same samples; large files stay files."""

import random

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split

from compressc.data import Split, as_dataset, columns, files, open_dataset
from compressc.errors import CompresscError
from compressc.pipeline import View

X = np.random.default_rng(0).normal(size=(60, 3)).astype("f4")
Y = np.arange(60) % 4


class Items(Dataset):
    """Pairs, made one by one."""

    def __init__(self, x=X, y=Y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


class Tokens(Dataset):
    """Dicts, of several lengths."""

    def __len__(self):
        return 30

    def __getitem__(self, index):
        ids = torch.arange(3 + index % 4)
        return {"ids": ids, "mask": torch.ones_like(ids), "label": index % 2}


def padded(samples):
    longest = max(len(s["ids"]) for s in samples)
    rows = {
        name: torch.stack(
            [torch.nn.functional.pad(s[name], (0, longest - len(s[name]))) for s in samples]
        )
        for name in ("ids", "mask")
    }
    return rows, torch.tensor([s["label"] for s in samples])


def table():
    import datasets

    return datasets.Dataset.from_dict(
        {"image": X.tolist(), "label": Y.tolist(), "text": ["words"] * 60}
    )


FORMS = {
    "arrays": lambda: (X, Y),
    "tensors": lambda: (torch.from_numpy(X), torch.from_numpy(Y)),
    "dict of arrays": lambda: {"x": X, "y": Y},
    "dict by name": lambda: {"image": X, "label": Y},
    "float64": lambda: (X.astype("f8"), Y.astype("u2")),
    "TensorDataset": lambda: TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    "torch Dataset": Items,
    "DataLoader": lambda: DataLoader(Items(), batch_size=7, shuffle=True),
    "list of samples": lambda: [(X[i], Y[i]) for i in range(60)],
    "list of dicts": lambda: [{"image": list(map(float, X[i])), "y": int(Y[i])} for i in range(60)],
    "Hugging Face": table,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_samples(form):
    data = as_dataset(FORMS[form](), "mine")
    assert (len(data.train), len(data.test), len(data.calibration)) == (48, 12, 48)
    assert data.has_labels
    seen = []
    for part in (data.train, data.test):
        batch = part.take(len(part))
        assert batch.inputs[0].dtype == torch.float32
        assert batch.labels.dtype == torch.int64
        where = [int(np.flatnonzero((row == X).all(1))[0]) for row in batch.inputs[0].numpy()]
        assert batch.labels.tolist() == [int(Y[i]) for i in where]
        assert torch.equal(torch.cat([b.inputs[0] for b in part.batches(5)]), batch.inputs[0])
        few = part.select(torch.tensor([3, 0, 3]))
        assert torch.equal(few.inputs[0], batch.inputs[0][[3, 0, 3]])
        seen += where
    assert sorted(seen) == list(range(60))
    assert as_dataset(FORMS[form](), "again").fingerprint == data.fingerprint


@pytest.mark.parametrize("form", ["arrays", "torch Dataset", "Hugging Face"])
def test_another_value_is_another_fingerprint(form, monkeypatch):
    before = as_dataset(FORMS[form](), "mine").fingerprint
    changed = X.copy()
    changed[0, 0] += 1
    monkeypatch.setitem(globals(), "X", changed)
    after = {"torch Dataset": lambda: Items(changed)}.get(form, FORMS[form])
    assert as_dataset(after(), "mine").fingerprint != before


def test_inputs_without_labels():
    for form in (
        X,
        torch.from_numpy(X),
        (X,),
        (X, None),
        {"x": X},
        TensorDataset(torch.from_numpy(X)),
    ):
        data = as_dataset(form, "mine")
        assert (data.has_labels, len(data.train.take(2).inputs)) == (False, 1)
    two = as_dataset((X, X + 1, None), "mine")
    assert [x[0, 0].item() for x in two.test.take(1).inputs][1] != 0
    assert (
        len(two.train.take(1).inputs) == len(as_dataset(((X, X), Y), "m").train.take(1).inputs) == 2
    )


def test_a_target_may_be_a_tree():
    for form in (
        (X, {"class": Y, "box": np.zeros((60, 4), "f4")}),
        [(X[i], {"class": Y[i], "box": np.zeros(4, "f4")}) for i in range(60)],
    ):
        labels = as_dataset(form, "mine").train.select(torch.tensor([0, 1])).labels
        assert labels["box"].shape == (2, 4)
        assert (labels["class"].dtype, labels["class"].shape) == (torch.int64, (2,))


def test_parts_of_any_form_and_a_validation_part():
    train, test = random_split(Items(), [40, 20], torch.Generator().manual_seed(0))
    data = as_dataset({"train": train, "test": test, "validation": (X[:7], Y[:7])}, "mine")
    assert [len(part) for part in data.parts.values()] == [40, 40, 20, 7]
    assert set(data.parts) == {"train", "calibration", "test", "validation"}
    assert data.fingerprint != as_dataset({"train": train, "test": test}, "mine").fingerprint
    arrays = {"x_train": X, "y_train": Y, "x_test": X[:9], "y_test": Y[:9], "x_validation": X[:5]}
    assert len(as_dataset(arrays, "mine").validation) == 5
    assert as_dataset(arrays, "mine").test.labels.tolist() == Y[:9].tolist()


def test_batches_of_several_lengths_by_a_collate_function():
    data = as_dataset(DataLoader(Tokens(), batch_size=4, collate_fn=padded), "mine")
    assert data.train.names == ("ids", "mask")
    batch = data.train.take(4)
    assert batch.inputs[0].shape == batch.inputs[1].shape
    with pytest.raises(CompresscError) as caught:
        as_dataset(Tokens(), "mine").fingerprint  # noqa: B018
    assert caught.value.code == "CC302"
    assert "mine, sample" in caught.value.where


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_the_same_with_workers_and_seeded_by_view_and_position(workers):
    class Noisy(Items):
        def __getitem__(self, index):
            noise = torch.rand(1).item() + random.random() + np.random.rand()
            return self.x[index] + np.float32(noise), int(self.y[index])

    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    source = as_dataset({"train": Noisy(), "test": Items()}, "mine", workers).train
    assert source.has_views
    assert not as_dataset(Items(), "mine").train.has_views
    places = [torch.tensor([5, 1]), torch.tensor([1, 5])]
    first, other = (
        [b.inputs[0] for b in source.stream((p, View(3, number)) for p in places)]
        for number in (0, 1)
    )
    assert torch.equal(first[0], first[1].flip(0))  # whatever batch it comes in
    assert not torch.isclose(first[0], other[0]).any()  # every view is another
    noise = (
        source.take(30).inputs[0]
        - as_dataset({"train": Items(), "test": X}, "m").train.take(30).inputs[0]
    )
    assert len(noise[:, 0].unique()) > 20  # and every sample has noise of its own
    assert torch.equal(first[0], source.select(places[0], View(3, 0)).inputs[0])
    assert torch.equal(source.select(places[0]).inputs[0], source.select(places[0]).inputs[0])
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.random.get_state()[1].tolist() == state[2]


def test_labels_of_a_torch_data_set_are_divided_in_proportion_where_it_lists_them():
    items = Items(y=np.repeat([0, 1], [48, 12]))
    items.targets = items.y.tolist()
    data = as_dataset(items, "mine")
    assert data.test.take(12).labels.bincount().tolist() == [10, 2]
    items.targets = [1 - int(label) for label in items.y]  # not what its samples say
    assert as_dataset(items, "mine").train.all_labels() is None


def save(folder, form, **arrays):
    if form == "npz":
        np.savez(folder / "d.npz", **arrays)
        return folder / "d.npz"
    if form == "safetensors":
        save_file(arrays, folder / "d.safetensors")
        return folder / "d.safetensors"
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    paths = ",".join(str(folder / f"{name}.npy") for name in arrays)
    return folder if form == "folder" else paths


@pytest.mark.parametrize("in_memory", [0, files.IN_MEMORY])
@pytest.mark.parametrize("form", ["npz", "safetensors", "folder", "npy"])
def test_files_are_the_same_in_memory_and_row_by_row(tmp_path, monkeypatch, form, in_memory):
    monkeypatch.setattr(files, "IN_MEMORY", in_memory)
    data = open_dataset(str(save(tmp_path, form, x=X, y=Y)))
    plain = as_dataset((X, Y), "plain")
    for part in ("train", "calibration", "test"):
        ours, theirs = getattr(data, part), getattr(plain, part)
        assert isinstance(ours, Split) == bool(in_memory)
        index = torch.tensor([4, 5, 6, 2, 9, 9])
        assert torch.equal(ours.select(index).inputs[0], theirs.select(index).inputs[0])
        assert torch.equal(ours.select(index).labels, theirs.select(index).labels)
        assert torch.equal(ours.all_labels(), theirs.all_labels())
    assert open_dataset(str(save(tmp_path, form, x=X, y=Y))).fingerprint == data.fingerprint
    changed = X.copy()
    changed[59, 2] += 1
    assert open_dataset(str(save(tmp_path, form, x=changed, y=Y))).fingerprint != data.fingerprint


def test_rows_of_other_dtypes_are_converted_as_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "IN_MEMORY", 0)
    wide = (X * 1000).astype(">f8")
    np.save(tmp_path / "x.npy", np.asfortranarray(wide))
    np.save(tmp_path / "y.npy", Y.astype("u4"))
    part = open_dataset(f"{tmp_path}/").train.take(48)
    assert (part.inputs[0].dtype, part.labels.dtype) == (torch.float32, torch.int64)
    where = [int(np.flatnonzero(np.isclose(wide, row).all(1))[0]) for row in part.inputs[0].numpy()]
    assert part.labels.tolist() == Y[where].tolist()


def test_inputs_by_name_in_a_file(tmp_path):
    ids = np.arange(40).reshape(20, 2)
    path = save(
        tmp_path,
        "npz",
        input_ids_train=ids,
        mask_train=ids + 1,
        labels_train=ids[:, 0],
        input_ids_test=ids,
        mask_test=ids,
    )
    data = open_dataset(path)
    assert (data.train.names, data.has_labels) == (("input_ids", "mask"), False)
    swapped = data.ordered(["mask", "input_ids"])
    assert torch.equal(swapped.train.take(3).inputs[0], torch.from_numpy(ids[:3] + 1))
    for inputs, hint in ((["mask"], "leave input_ids out"), (["mask", "ids"], "rename input_ids")):
        with pytest.raises(CompresscError, match="CC301") as caught:
            data.ordered(inputs)
        assert hint in caught.value.hint
        assert caught.value.got == "input_ids, mask"


def test_a_map_that_is_large_stays_one(tmp_path, monkeypatch):
    monkeypatch.setattr("compressc.data.objects.IN_MEMORY", 0)
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = as_dataset((mapped, Y), "mine").train
    assert isinstance(source.whole, columns.Columns)
    assert torch.equal(source.take(48).inputs[0], as_dataset((X, Y), "m").train.take(48).inputs[0])
    (tmp_path / "x.npy").open("r+b").truncate(100)
    with pytest.raises(CompresscError, match="CC302"):
        source.take(1)


def test_of_large_data_some_is_hashed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "IN_MEMORY", 0)
    path = save(tmp_path, "npz", x=X, y=Y)
    whole = open_dataset(path)
    assert whole.hashed_whole
    before = whole.fingerprint
    monkeypatch.setattr(columns, "READ_WHOLE", 0)
    some = open_dataset(path)
    assert not some.hashed_whole
    assert some.fingerprint != before
    assert open_dataset(path).fingerprint == some.fingerprint


def test_a_saved_hugging_face_data_set(tmp_path):
    pytest.importorskip("datasets")
    table().save_to_disk(str(tmp_path / "saved"))
    data = open_dataset(f"{tmp_path}/saved")
    assert (len(data.train), data.train.names) == (48, ("image",))


def test_a_function_maps_batches_of_any_source(tmp_path, monkeypatch):
    pixels = (np.arange(60 * 4).reshape(60, 4) % 256).astype("u1")
    np.save(tmp_path / "x.npy", pixels)
    prints = set()
    for in_memory in (0, files.IN_MEMORY):
        monkeypatch.setattr(files, "IN_MEMORY", in_memory)
        plain = open_dataset(str(tmp_path / "x.npy"))
        data = plain.map(lambda x: x.float() / 255)
        for part, source in plain.parts.items():
            wanted = source.take(60).inputs[0].float() / 255
            assert torch.equal(data.parts[part].take(60).inputs[0], wanted)
        doubled = plain.map(lambda x: (x.float() * 2 / 255,))
        prints |= {plain.fingerprint, data.fingerprint, doubled.fingerprint}
    assert len(prints) == 6
    with pytest.raises(CompresscError, match="as many samples"):
        data.map(lambda x: x[:1])
    with pytest.raises(CompresscError, match="AttributeError"):
        data.map(lambda x: x.nothing)
    with pytest.raises(CompresscError, match="NaN"):
        plain.map(lambda x: x.float().log() * 0)
    twice = as_dataset({"a": X, "b": X, "y": Y}, "m").map(lambda a, b: a + b)
    assert (twice.train.names, len(twice.train.take(1).inputs)) == (None, 1)


def test_a_list_of_numbers_is_one_input():
    data = as_dataset([[float(i), 1.0, 2.0] for i in range(20)], "mine")
    assert data.train.take(2).inputs[0].shape == (2, 3)
    assert not data.has_labels


def test_what_is_no_data_says_what_is():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([])

    for wrong, got in ((Stream(), "Stream"), ([1, 2], "list"), ("text", "str"), (3, "int")):
        with pytest.raises(CompresscError) as caught:
            as_dataset(wrong, "mine")
        assert (caught.value.code, caught.value.got) == ("CC300", got)
    with pytest.raises(CompresscError, match="arrays hold numbers") as caught:
        as_dataset([("text", 1), ("more", 0)], "mine")
    assert "sample 0" in caught.value.where
