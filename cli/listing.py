"""The commands as `iobench --help` lists them: in the order of a user's work, each with its first sentence whole."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

ORDER = (
    *("qualify", "presets", "doctor", "gpu-check"),
    *("generate", "convert", "index"),
    *("storage", "load", "stage", "train", "infer", "scale"),
    *("report", "compare", "schema"),
)


class CommandList(TyperGroup):
    """The group of all commands; typer's own lists them as they were imported, and cuts their sentences short."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In ORDER; one that is not in it comes last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A row for each command."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, _first_sentence(command.help or "")) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _first_sentence(text: str) -> str:
    """Up to the first full stop, or the end of the first paragraph."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".")
