"""attlas mcp, as an assistant has it: a process, spoken to by mcp's own client over its standard input and output."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import attlas
from attlas.server.session import Session

TOOLS = {
    "list_atlases", "list_documents", "read_document", "read_tokens", "find_text", "name_heads", "top_keys",
    "top_queries", "read_weight",
}  # fmt: skip


def test_an_assistant_asks(tmp_path: Path) -> None:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    attlas.capture("demo", ["the cat sat. the cat sat."], tmp_path / "a.zarr", ids=["one"])
    line = ["-c", "from attlas.cli import main; main()", "mcp", str(tmp_path / "a.zarr")]
    server = StdioServerParameters(command=sys.executable, args=line, env=dict(os.environ))

    async def talk() -> tuple[Any, list[Any]]:
        async with stdio_client(server) as (read, write), ClientSession(read, write) as client:
            await client.initialize()
            asked: list[tuple[str, dict[str, Any]]] = [
                ("top_keys", {"layer": 1, "head": 0, "query": 9, "top": 2}),
                ("top_queries", {"layer": 1, "head": "mean", "key": 3}),
                ("read_weight", {"layer": 1, "head": 0, "query": 9, "key": 3}),
                ("read_tokens", {"count": 3}),
                ("read_document", {"document": "onne"}),
                ("top_keys", {"layer": 99, "head": 0, "query": 9}),
                ("list_atlases", {}),
            ]
            return await client.list_tools(), [await client.call_tool(*one) for one in asked]

    tools, found = asyncio.run(talk())
    assert {tool.name for tool in tools.tools} == TOOLS
    assert all(tool.description and tool.annotations.read_only_hint for tool in tools.tools)
    assert [one.is_error for one in found] == [False, False, False, False, True, True, False]
    texts = [one.content[0].text for one in found]
    session = Session({"a": tmp_path / "a.zarr"})
    place = {"layer": 1, "head": 0, "query": 9}
    assert json.loads(texts[0]) == session.answer("row", place | {"top": 2}).data
    assert json.loads(texts[2]) == session.answer("cell", place | {"key": 3}).data
    assert json.loads(texts[3])["tokens"] == session.answer("tokens", {"stop": 3}).data["tokens"]
    assert "did you mean 'one'?" in texts[4]
    assert "there is no layer 99" in texts[5]
