"""What is shown to others keeps no names and no credentials."""

from pathlib import Path

import pytest

from iobench.results.privacy import public_option, public_path, without_names


def test_the_home_directory_is_shown_as_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert public_path("/home/ada") == "~"
    assert public_path(Path("/home/ada/data")) == "~/data"
    assert public_path("/home/adamas/data") == "/home/adamas/data"
    assert public_path("data/x") == "data/x"
    monkeypatch.setenv("HOME", "/")
    assert public_path("/data") == "/data"


def test_the_users_own_name_is_no_part_of_a_shown_path(monkeypatch):
    monkeypatch.setattr("iobench.results.privacy._user_name", lambda: "ada")
    assert public_path("/scratch/ada/set") == "/scratch/$USER/set"


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("username=ada", "username=(hidden)"),
        ("password=1234", "password=(hidden)"),
        ("secret=AQBd", "secret=(hidden)"),
        ("passwd_file=/etc/s3", "passwd_file=(hidden)"),
        ("user_id=1000", "user_id=(hidden)"),
        ("lowerdir=/home/ada/images", "lowerdir=/home/$USER/images"),
        ("url=https://ada:1234@store/bucket", "url=https://store/bucket"),
        ("nouser_xattr", "nouser_xattr"),
        ("sec=sys", "sec=sys"),
    ],
)
def test_mount_options_keep_no_names_and_no_credentials(option, shown):
    assert public_option(option) == shown


def test_the_source_of_a_mount_keeps_no_user():
    assert without_names("ada@host:/home/ada/set") == "host:/home/$USER/set"
    assert without_names("//filer/share") == "//filer/share"
