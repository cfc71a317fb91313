"""`iobench --help` lists every command in the order of its use, with a whole sentence on each."""

from typer.main import get_command
from typer.testing import CliRunner

from iobench.cli import app
from iobench.cli.listing import ORDER


def test_every_command_is_listed_in_order_with_its_first_sentence_whole():
    shown = CliRunner().invoke(app, ["--help"], prog_name="iobench").output
    assert "..." not in shown.partition("Commands:")[2]
    assert sorted(ORDER) == sorted(get_command(app).commands)
    places = [shown.index(f"\n  {name} ") for name in ORDER]
    assert places == sorted(places)
    assert "verified, and gone on with after an interruption" in " ".join(shown.split())
