"""The tools over MCP, by its SDK: on standard input and output, and over HTTP."""

from __future__ import annotations

import json
import logging
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from starlette.types import Receive, Scope, Send

from embedsvc import __version__
from embedsvc.agents.shelves import Shelf
from embedsvc.agents.tools import TOOLS, Tool, check_arguments
from embedsvc.errors import EmbedsvcError

log = logging.getLogger(__name__)

_INSTRUCTIONS = (
    "Answers from the user's own documents. Ask search, read what is around a result by fetch, and cite the url or the "
    "title of what you use."
)
_TOOLS = {tool.name: tool for tool in TOOLS}


def make_server(shelf: Shelf, public_url: str) -> Server[Any]:
    """``public_url``: what citations begin with; empty: over HTTP, the address that the client itself uses."""

    async def list_tools(context: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in TOOLS])

    async def call_tool(context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = _TOOLS.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"There is no tool {params.name!r}. There are {', '.join(_TOOLS)}.")
        base = public_url or ("" if context.request is None else str(context.request.base_url))
        try:
            check_arguments(tool, params.arguments or {})
            value = await tool.call(shelf, base, params.arguments or {})
        except EmbedsvcError as error:
            return _failed(str(error))
        except Exception:
            log.exception("the tool %s failed", tool.name)
            return _failed("Something went wrong inside embedsvc; its log says what.")
        text = json.dumps(value, ensure_ascii=False)
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], structured_content=value)

    return Server(
        "embedsvc",
        version=__version__,
        title="Document search",
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.takes,
        output_schema=tool.gives,
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )


def _failed(message: str) -> types.CallToolResult:
    """An agent that reads it may do better."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=message)], is_error=True)


def serve_stdio(shelf: Shelf, public_url: str) -> None:
    """Answers on standard output what is asked on standard input, until that ends."""

    async def serve() -> None:
        server = make_server(shelf, public_url)
        async with stdio_server() as (asked, answered):
            await server.run(asked, answered, server.create_initialization_options())

    anyio.run(serve)


class Door:
    """The tools over streamable HTTP: an ASGI application, open while :meth:`running`. Every request stands for itself,
    so any server process may answer it."""

    def __init__(self, shelf: Shelf, public_url: str, max_body: int) -> None:
        self._manager = StreamableHTTPSessionManager(
            make_server(shelf, public_url), json_response=True, stateless=True, max_request_body_size=max_body
        )

    def running(self) -> AbstractAsyncContextManager[None]:
        return self._manager.run()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._manager.handle_request(scope, receive, send)
