"""The command line: click commands, each a thin call into the library. May import everything below it.

Commands are loaded when they are run, so that `attlas --help` needs neither torch nor zarr.
"""

from __future__ import annotations

from importlib import import_module

import click

import attlas

__all__ = ["main"]

COMMANDS = {
    "ablate": "What a model loses without a head, some edges, or under any edit.",
    "bench": "Time, memory and disk here, beside what the machine allows.",
    "capture": "Run a model over texts and keep its attention.",
    "compare": "Where two heads, layers, documents or models differ.",
    "consistency": "How much weights vary over dropout, or paraphrases.",
    "counterfactual": "Another text, or a token left out: what moves.",
    "demo": "The embedded model, captured, its heads named.",
    "embed": "Heads as points, near where they attend alike.",
    "explain": "What explanations of a prediction say, tested.",
    "export": "A page in one file, to send.",
    "graph": "Attention as a graph of tokens; who is central in it.",
    "heads": "What every head does, and how alike heads are.",
    "info": "What an atlas holds.",
    "mcp": "Tools for assistants, over the same questions.",
    "patch": "Attention of one run put into another: what comes back.",
    "perturb": "How far predictions move under other attention weights.",
    "overview": "Store coarse levels of the maps, for the page.",
    "plan": "Memory and disk a capture will need.",
    "plot": "Pictures: maps, texts, graphs, heads, films.",
    "query": "Weights of one head, as table, CSV, JSON or npy.",
    "received": "Which tokens are attended to most.",
    "relevance": "Which tokens count for what was said, by gradients.",
    "rollout": "How much of a token's last state comes from each token.",
    "serve": "Atlases over HTTP, for a team and its programs.",
    "stats": "Statistics of every layer and head.",
    "verify": "Check an atlas against its own records.",
    "view": "Look at an atlas in a browser.",
}


class LazyGroup(click.Group):
    """A group whose commands live in modules of the same name, imported when one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"attlas.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(attlas.__version__, prog_name="attlas")
def main() -> None:
    """Capture a transformer's attention once, exactly, at any length; query it afterwards.

    \b
    Try it, without any download:
      attlas demo
    Your own model and text:
      attlas capture HuggingFaceTB/SmolLM2-135M book.txt --store book.zarr
      attlas query book.zarr --document book --layer 3 --head 5 --query :20
    """
