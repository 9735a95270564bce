"""The command line as a whole: its commands, each a module of this folder, and how their errors are shown."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

import click

from mlflow_agent_target import __version__


class _Commands(click.Group):
    """Finds a command in the module of its name, which is loaded when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        here = Path(__file__)
        return sorted(module.name for module in pkgutil.iter_modules([str(here.parent)]) if module.name != here.stem)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = getattr(import_module(f"{__package__}.{cmd_name}"), cmd_name)
        return command


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="agent-target")
def commands() -> None:
    """Query AI agents that were authored with MLflow: get_deploy_client("agent-target")."""


def main() -> None:
    """Run the command line: an error of this package is a message and exit code 1, never a traceback."""
    try:
        commands(standalone_mode=False)
    except click.exceptions.Abort:
        raise SystemExit(130) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        from mlflow_agent_target.errors import AgentTargetError

        if not isinstance(error, AgentTargetError):
            raise
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None
