import os
import socket
import stat
from pathlib import Path

import pytest

from common import walk as walk_module
from common.walk import irregular, shown, walk


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def found(folder, suffixes=(".nii", ".nii.gz")):
    """Paths below the folder, and the troubles by name."""
    result = walk(folder, suffixes=suffixes)
    return [str(file.relative_to(folder)) for file in result.files], {t.name: t.what for t in result.troubles}


def test_files_of_the_suffixes_in_the_order_of_their_paths(tmp_path):
    put(tmp_path, "b/2.nii", "b/10.nii.gz", "a.nii", "a/z/1.nii", "a/note.txt", "a/._1.nii", ".git/1.nii", "nii")
    assert found(tmp_path) == (["a/z/1.nii", "a.nii", "b/10.nii.gz", "b/2.nii"], {})
    assert found(tmp_path, (".txt",)) == (["a/note.txt"], {})


def test_each_folder_is_entered_once_and_by_its_own_name(tmp_path):
    root = tmp_path / "root"
    put(root, "m/1.nii", "m/n/2.nii")
    put(tmp_path, "elsewhere/3.nii")
    for link, target in {"a": ".", "b": "..", "m/up": "..", "c": "m", "m/n/round": "../../m"}.items():
        (root / link).symlink_to(target)
    (root / "d").symlink_to(tmp_path / "elsewhere")
    (root / "e").symlink_to(tmp_path / "elsewhere")
    names, troubles = found(root)
    assert troubles == {}
    # what lies above the folder is reached through the link to it, and its files come once as well
    assert len(names) == 3
    assert names[-2:] == ["m/1.nii", "m/n/2.nii"]


def test_what_is_no_file_is_named_and_never_opened(tmp_path, monkeypatch):
    put(tmp_path, "good.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    os.mkfifo(tmp_path / "other_pipe")  # no scan by its name
    (tmp_path / "zero.nii.gz").symlink_to("/dev/zero")
    (tmp_path / "gone.nii").symlink_to("nowhere")
    (tmp_path / "subject").symlink_to("unmounted")
    (tmp_path / "notes.pdf").symlink_to("nowhere")
    (tmp_path / "self.nii").symlink_to("self.nii")
    (tmp_path / "folder.nii").mkdir()
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.nii")
        names, troubles = found(tmp_path)
    assert names == ["good.nii"]
    assert troubles.keys() == {"pipe.nii", "zero.nii.gz", "gone.nii", "subject", "self.nii", "socket.nii"}
    assert "a named pipe" in troubles["pipe.nii"]
    assert "a device" in troubles["zero.nii.gz"]
    assert "leads nowhere" in troubles["gone.nii"]
    assert "symbolic links" in troubles["self.nii"]
    assert irregular(tmp_path / "folder.nii") == "a folder"
    assert irregular(tmp_path / "good.nii") is None
    assert irregular(tmp_path / "absent") == "nothing"


@pytest.mark.parametrize("name", [b"M\xfcller.nii", b"new\nline.nii", b"escape\x1b[2J.nii", b"folder\t/1.nii"])
def test_names_that_are_no_plain_text(tmp_path, name):
    put(tmp_path, "B\u00e4r \u79d1.nii")
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "wb").close()
    result = walk(tmp_path, suffixes=(".nii",))
    assert [file.name for file in result.files] == ["B\u00e4r \u79d1.nii"]
    (trouble,) = result.troubles
    assert "no plain text" in trouble.what
    trouble.name.encode("utf-8")
    assert trouble.name.isprintable()
    assert shown(trouble.name) == trouble.name


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    put(tmp_path, "a/1.nii", "locked/2.nii", "z/3.nii")
    real = os.scandir

    def scandir(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(walk_module.os, "scandir", scandir)
    assert found(tmp_path) == (["a/1.nii", "z/3.nii"], {"locked": "cannot be listed: Permission denied"})
    assert found(tmp_path / "locked")[1] == {"locked": "cannot be listed: Permission denied"}


def test_a_folder_without_permission(tmp_path):
    put(tmp_path, "a/1.nii", "locked/2.nii")
    (tmp_path / "locked").chmod(0)
    try:
        if os.access(tmp_path / "locked", os.R_OK):
            pytest.skip("this user may list every folder")
        assert "Permission denied" in found(tmp_path)[1]["locked"]
    finally:
        (tmp_path / "locked").chmod(stat.S_IRWXU)
