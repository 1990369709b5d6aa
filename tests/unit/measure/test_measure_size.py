"""Bytes on disk."""

import pytest

from compressc.measure import bytes_on_disk


def test_files_folders_and_several_paths(tmp_path):
    (tmp_path / "a.xml").write_bytes(b"x" * 10)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "b.bin").write_bytes(b"x" * 1000)
    (tmp_path / "in" / "deep" / "c").write_bytes(b"")
    assert bytes_on_disk(tmp_path / "a.xml") == 10
    assert bytes_on_disk(str(tmp_path)) == 1010
    assert bytes_on_disk(tmp_path / "a.xml", tmp_path / "in" / "b.bin") == 1010


def test_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(b"x" * 100_000)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "folder").symlink_to(outside)
    (inside / "file").symlink_to(outside / "big")
    assert bytes_on_disk(inside) < 1000


def test_missing_path(tmp_path):
    with pytest.raises(FileNotFoundError):
        bytes_on_disk(tmp_path / "none")
