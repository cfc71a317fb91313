"""What may be shown to others: paths without home directories, mount options without users and credentials."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

PRIVATE_OPTIONS = re.compile(
    r"(?i)(user|username|user_id|group_id|uid|gid|cruid|name|domain|cred.*|pass.*|.*(secret|key|token).*)="
)


def public_path(path: Path | str) -> str:
    """A path that may be shown to others: the home directory becomes ~, the user's own name elsewhere $USER."""
    text = str(path)
    home = os.path.expanduser("~").rstrip("/")
    if home.startswith("/") and (text == home or text.startswith(home + "/")):
        text = "~" + text[len(home) :]
    name = _user_name()
    return "/".join("$USER" if name and part == name else part for part in text.split("/"))


def public_text(text: str) -> str:
    """A message that may be shown to others: every path in it as `public_path` shows it."""
    return " ".join(public_path(word) if "/" in word else word for word in text.split(" "))


def public_option(option: str) -> str:
    """A mount option that may be shown: of those that tell a user or a secret, the name alone."""
    key, _, _ = option.partition("=")
    return f"{key}=(hidden)" if PRIVATE_OPTIONS.match(option) else without_names(option)


def without_names(text: str) -> str:
    """Without `user:password@` and without the names below /home."""
    text = re.sub(r"(^|//|=)[^/@=\s]+@", r"\1", text)
    return re.sub(r"/home/[^/:,\s]+", "/home/$USER", public_path(text))


def _user_name() -> str | None:
    """The login name, None for root (which names no person) and for numbers without one."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name if os.getuid() else None
    except KeyError:
        return None
