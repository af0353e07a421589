"""Groups of commands with a command `help` and whole help texts."""

from typing import Any

import click


@click.command("help")
@click.argument("command", nargs=-1)
@click.pass_context
def _help(context: click.Context, command: tuple[str, ...]) -> None:
    """Explain a command."""
    group = context.parent
    assert group is not None
    names = context.help_option_names
    group.command.main([*command, "--help"], prog_name=group.command_path, help_option_names=names)


class CommandGroup(click.Group):
    """A group with a command `help`, whose list of commands has whole sentences."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.add_command(_help)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the first sentence of each command. Click would cut it at the end of the line."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self.commands[name].get_short_help_str(1000)) for name in self.list_commands(ctx)]
            )
