"""The README shows the pictures that are there, and no other."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "tests" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gallery", module)
    spec.loader.exec_module(module)
    return module


def test_every_picture_of_the_readme_is_in_the_repository():
    named = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_a_picture_that_was_not_taken_is_not_named(gallery, monkeypatch):
    shots = (*gallery.SHOTS[:1], gallery.Shot("no-such-picture", "none", "none", "article"))
    monkeypatch.setattr(gallery, "SHOTS", shots)
    monkeypatch.setattr(
        gallery.Shot, "path", property(lambda shot: ROOT / "README.md" if shot is shots[0] else ROOT / "no")
    )
    text = gallery.shown_in(f"before\n\n{gallery.BEGIN}\n\nold\n\n{gallery.END}\n\nafter\n")
    caption = shots[0].caption
    assert text == f"before\n\n{gallery.BEGIN}\n\n![{caption}](README.md)\n\n{gallery.END}\n\nafter\n"


def test_the_readme_is_as_the_gallery_writes_it(gallery):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert gallery.shown_in(text) == text
