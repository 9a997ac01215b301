"""Tools for assistants (MCP): questions of a session, read-only, answered as text that fits a conversation.

An error reaches the asker as its one line: cause and remedy.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec

from pydantic import Field

import attlas
from attlas.errors import AttlasError, InputError
from attlas.server.session import Session

__all__ = ["make_server"]

P = ParamSpec("P")

MOST_TOKENS = 2000
MOST_TOP = 100
ABOUT = (
    "Exact attention weights of language models, captured in atlases. Begin with list_atlases and read_document; "
    "name_heads says which heads do something telling, and top_keys and top_queries say where they look. Rows sum to 1."
)

Atlas = Annotated[str | None, Field(description="Its name; may be left out where there is one.")]
Document = Annotated[str | None, Field(description="Its id; may be left out where there is one.")]
Kind = Annotated[str | None, Field(description="self, or encoder, decoder, cross; the first by default.")]
Layer = Annotated[int, Field(description="The model's index.")]
Head = Annotated[int | str, Field(description='The model\'s index, or "mean" of all.')]
Place = Annotated[int, Field(description="Place of a token in the document, from 0.")]
Top = Annotated[int, Field(ge=1, le=MOST_TOP, description="How many of the largest weights.")]


def make_server(session: Session) -> Any:
    """An MCPServer over a session, ready to `run`; raises InputError where the package mcp is not installed."""
    try:
        from mcp.server import MCPServer
        from mcp.types import ToolAnnotations
    except ImportError as error:
        raise InputError("attlas mcp needs a package that is not installed: pip install 'attlas[mcp]'") from error

    server = MCPServer("attlas", version=attlas.__version__, instructions=ABOUT, log_level="ERROR")
    for tool in _tools(session):
        named = ToolAnnotations(read_only_hint=True, open_world_hint=False)
        server.tool(annotations=named, structured_output=False)(_told(tool))
    return server


def _told(tool: Callable[P, dict[str, Any]]) -> Callable[P, str]:
    """The tool's answer as one JSON text; of an error of attlas what it says, which no other exception's would."""
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(tool)
    def answer(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return json.dumps(tool(*args, **kwargs), ensure_ascii=False)
        except AttlasError as error:
            raise ToolError(str(error)) from None

    answer.__annotations__ = tool.__annotations__ | {"return": str}
    return answer


def _tools(session: Session) -> list[Callable[..., dict[str, Any]]]:
    def ask(op: str, **arguments: Any) -> dict[str, Any]:
        return session.answer(op, arguments).data

    def list_atlases() -> dict[str, Any]:
        """The atlases: of each its name, model and number of documents."""
        return ask("info")

    def list_documents(atlas: Atlas = None, text: str = "", start: int = 0, count: int = 50) -> dict[str, Any]:
        """Documents of an atlas whose ids hold a text."""
        return ask("documents", atlas=atlas, text=text, start=start, stop=start + count)

    def read_document(atlas: Atlas = None, document: Document = None) -> dict[str, Any]:
        """One document: its tokens' number, layers, heads, and the statistics that can be asked."""
        return ask("document", atlas=atlas, document=document)

    def read_tokens(
        start: Place = 0, count: int = 200, atlas: Atlas = None, document: Document = None, kind: Kind = None,
        axis: str = "key",
    ) -> dict[str, Any]:  # fmt: skip
        """A run of tokens as text, 2000 at most; axis is key or query, which differ in cross attention."""
        stop = start + min(count, MOST_TOKENS)
        found = ask("tokens", atlas=atlas, document=document, kind=kind, axis=axis, start=start, stop=stop)
        return {name: found[name] for name in ("start", "total", "tokens")}

    def find_text(
        text: str, atlas: Atlas = None, document: Document = None, kind: Kind = None, axis: str = "key", limit: int = 50
    ) -> dict[str, Any]:
        """Places of tokens that hold a text, as [first, end)."""
        return ask("find", atlas=atlas, document=document, kind=kind, text=text, axis=axis, limit=limit)

    def name_heads(atlas: Atlas = None, document: Document = None, kind: Kind = None) -> dict[str, Any]:
        """The heads that have a role (induction, previous token, sink, ...), best first, with what each role means."""
        return ask("heads", atlas=atlas, document=document, kind=kind)

    def top_keys(
        layer: Layer, head: Head, query: Place, top: Top = 10, atlas: Atlas = None, document: Document = None,
        kind: Kind = None,
    ) -> dict[str, Any]:  # fmt: skip
        """What a token looks at: the keys with the largest weights of one query."""
        return ask("row", atlas=atlas, document=document, kind=kind, layer=layer, head=head, query=query, top=top)

    def top_queries(
        layer: Layer, head: Head, key: Place, top: Top = 10, atlas: Atlas = None, document: Document = None,
        kind: Kind = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Who looks at a token: the queries with the largest weights on one key."""
        return ask("column", atlas=atlas, document=document, kind=kind, layer=layer, head=head, key=key, top=top)

    def read_weight(
        layer: Layer, head: Head, query: Place, key: Place, atlas: Atlas = None, document: Document = None,
        kind: Kind = None,
    ) -> dict[str, Any]:  # fmt: skip
        """One attention weight, exactly."""
        return ask("cell", atlas=atlas, document=document, kind=kind, layer=layer, head=head, query=query, key=key)

    return [
        list_atlases, list_documents, read_document, read_tokens, find_text, name_heads, top_keys, top_queries,
        read_weight,
    ]  # fmt: skip
