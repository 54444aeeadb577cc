"""A group of commands one of which needs no name: `kodkod swebench DATASET` and `kodkod swebench report DIR`."""

from __future__ import annotations

import click


class DefaultGroup(click.Group):
    """What is no command's name goes to the command of `default`, as its arguments."""

    default = "run"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As every group; the default command's name is put before arguments that begin with none."""
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = [self.default, *args]
        return super().parse_args(ctx, args)
