"""The description of the control plane: an OpenAPI 3.1 document made from the table of routes, and a page of it."""

import html
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

import tandem
from tandem.accounts import Role
from tandem.api.edge import DEFAULT_PAGE, MAX_PAGE, ErrorAnswer, Handler
from tandem.api.platform import Platform

OpenHandler = Callable[[Platform, Request], Awaitable[Response]]
"""A handler that asks nobody for a key."""

Schema = dict[str, Any]

PREFIX = "/api/v1"

_JSON = "application/json"
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_MODULE = re.compile(r"tandem\.[\w.]+\.(\w+)\.(\w+)$")
_ERRORS: Mapping[int, str] = {
    400: "The request cannot be meant.",
    401: "No key, an unknown or a revoked one.",
    403: "The key may not do this.",
    404: "There is no such thing, or not for this key.",
    409: "It is in another state than the request supposes.",
    412: "It was changed since the client read it, or is there already; nothing was done.",
    413: "The body is too large.",
    503: "It may work later, unchanged.",
}
_ABOUT = (
    "What a person or a program does beside calling models. Models are called with the OpenAI and Azure OpenAI APIs "
    "on the same server, with the same keys. Lists come in pages. The answer to a GET has an `ETag`; send it as "
    "`If-Match` with a change, and the change is refused with 412 where somebody else was faster, or "
    "`If-None-Match: *` to make only what is not there. Fields are only added; a client ignores those that it does "
    "not know."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """What a route takes and answers; the first line of its handler's docstring says what it does.

    Types are those that msgspec knows: structs, dataclasses, typed dictionaries.
    """

    answer: Any = None
    """Of the body, or of one row of a page; None where any JSON may come."""
    also: Mapping[str, Any] = field(default_factory=dict)
    """Fields that the answer has beside those of its type."""
    page: bool = False
    """Whether `answer` comes in pages, by `limit` and `after`."""
    takes: Any = None
    """Of the request's body; None where there is none."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Optional parameters after the `?`, each with a sentence."""
    status: int = 200
    """Of success; 204 has no body."""
    media: str = _JSON
    """Of the answer's body."""
    observed: frozenset[str] = frozenset()
    """Fields of the answer that change by themselves; a change of them is no reason to refuse `If-Match`."""


class Endpoint(NamedTuple):
    """A row of the table of routes; the path is below /api/v1."""

    method: str
    path: str
    handler: Handler
    role: Role
    says: Says = Says()


def describe(
    endpoints: Iterable[Endpoint],
    open_to_all: Mapping[str, OpenHandler],
    *,
    reckoned: Mapping[type, Mapping[str, Schema]] | None = None,
) -> Schema:
    """The OpenAPI document of all routes: those of the table, and those that take no key, by their whole path.

    `reckoned` are fields that types have in answers beside those that they keep, wherever they occur.
    """
    endpoints = list(endpoints)
    kinds = [*_kinds(endpoints), *((("", "", kind.__name__), kind) for kind in reckoned or {})]
    schemas, components = msgspec.json.schema_components(
        [kind for _, kind in kinds], schema_hook=_any, ref_template="#/components/schemas/{name}"
    )
    found = {place: schema for (place, _), schema in zip(kinds, schemas, strict=True)}
    for kind, more in (reckoned or {}).items():
        component = components[found["", "", kind.__name__]["$ref"].rsplit("/", 1)[-1]]
        component["properties"] |= more
        component["required"] += more
    paths: dict[str, Schema] = {}
    for endpoint in endpoints:
        path = PREFIX + _PARAMETER.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, found)
    for path, handler in open_to_all.items():
        paths.setdefault(path, {})["get"] = _open_operation(handler)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Tandem", "version": tandem.__version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": {name: _tidied(schema) for name, schema in sorted(components.items())},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }
    described: Schema = _portable(document)
    return described


Place = tuple[str, str, str]
"""Where in the document a type is: method, path, and which part of the operation."""


def _kinds(endpoints: Iterable[Endpoint]) -> Iterator[tuple[Place, Any]]:
    yield ("", "", "error"), ErrorAnswer
    for method, path, _, _, says in endpoints:
        if says.answer is not None:
            yield (method, path, "answer"), says.answer
        if says.takes is not None:
            yield (method, path, "takes"), says.takes
        for name, kind in says.also.items():
            yield (method, path, name), kind


def _operation(endpoint: Endpoint, found: Mapping[Place, Schema]) -> Schema:
    method, path, handler, role, says = endpoint
    takes = found.get((method, path, "takes"))
    operation = {
        **_words(handler),
        "operationId": getattr(handler, "__name__", f"{method} {path}"),
        "tags": [path.split("/")[1]],
        "parameters": [*_path_parameters(path), *_query_parameters(says), *_headers(method)],
        "responses": {
            str(says.status): _success(endpoint, found),
            **{str(status): _failure(status, found) for status in _expected(endpoint)},
        },
        "x-role": role.value,
    }
    if takes is not None:
        operation["requestBody"] = {"required": True, "content": {_JSON: {"schema": takes}}}
    return operation


def _words(handler: Callable[..., Any]) -> Schema:
    """What a handler's docstring says: its first line, and what follows."""
    summary, _, rest = (inspect.getdoc(handler) or "").partition("\n")
    return {"summary": summary, **({"description": rest.strip()} if rest.strip() else {})}


def _open_operation(handler: OpenHandler) -> Schema:
    return {
        **_words(handler),
        "operationId": getattr(handler, "__name__", ""),
        "tags": ["open"],
        "security": [],
        "responses": {"200": {"description": "As the summary says."}},
    }


def _path_parameters(path: str) -> Iterator[Schema]:
    for name in _PARAMETER.findall(path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(says: Says) -> Iterator[Schema]:
    if says.page:
        limit = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE}
        yield {"name": "limit", "in": "query", "description": "How many rows at most.", "schema": limit}
        told = "The `next` of the page before; the first page has none."
        yield {"name": "after", "in": "query", "description": told, "schema": {"type": "string"}}
    for name, told in says.query.items():
        yield {"name": name, "in": "query", "description": told, "schema": {"type": "string"}}


def _headers(method: str) -> Iterator[Schema]:
    """The conditions that a client may set; how they are met is in the edge."""
    names = {"GET": {"If-None-Match": "304 where the client has what it would get."}}
    changes = {"If-Match": "The ETag that the client saw last.", "If-None-Match": "`*`: only where there is nothing."}
    for name, told in names.get(method, changes).items():
        yield {"name": name, "in": "header", "description": told, "schema": {"type": "string"}}


def _success(endpoint: Endpoint, found: Mapping[Place, Schema]) -> Schema:
    method, path, _, _, says = endpoint
    if says.status == 204:
        return {"description": "Done."}
    schema = found.get((method, path, "answer"), {})
    if says.also:
        more = {name: found[method, path, name] for name in says.also}
        schema = {"allOf": [schema, {"type": "object", "properties": more, "required": list(more)}]}
    if says.page:
        rows = {"type": "array", "items": schema}
        following = {"type": ["string", "null"], "description": "What to pass as `after`; null at the end."}
        properties = {"data": rows, "next": following}
        schema = {"type": "object", "properties": properties, "required": ["data", "next"]}
    tag = {"ETag": {"description": "Of this very answer.", "schema": {"type": "string"}}}
    answer: Schema = {
        "description": "A page." if says.page else "The answer.",
        "content": {says.media: {"schema": schema}},
    }
    return answer | ({"headers": tag} if method == "GET" else {})


def _expected(endpoint: Endpoint) -> list[int]:
    """The statuses that an operation may fail with, beside those that any may."""
    changes = endpoint.method != "GET"
    possible = {
        400: changes or endpoint.says.page or bool(endpoint.says.query),
        401: True,
        403: endpoint.role is Role.ADMIN,
        404: "{" in endpoint.path or endpoint.says.takes is not None,
        409: changes,
        412: changes,
        413: changes,
        503: True,
    }
    return [status for status, may_be in possible.items() if may_be]


def _failure(status: int, found: Mapping[Place, Schema]) -> Schema:
    return {"description": _ERRORS[status], "content": {_JSON: {"schema": found["", "", "error"]}}}


def _portable(value: Any) -> Any:
    """The document as programs in any language read it.

    The end of a text in a pattern is `$` everywhere but in Python, and of two types of one name none is called by the
    path of its module.
    """
    if isinstance(value, list):
        return [_portable(part) for part in value]
    if isinstance(value, str):
        return _MODULE.sub(lambda match: f"{match[1].title()}{match[2]}", value)
    if not isinstance(value, dict):
        return value
    found = {_portable(key): _portable(part) for key, part in value.items()}
    if isinstance(found.get("pattern"), str):
        found["pattern"] = found["pattern"].replace(r"\Z", "$")
    return found


def _any(kind: type) -> Schema:
    if kind is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError


def _tidied(schema: Schema) -> Schema:
    """A component whose description is the prose of its docstring, without what it says to programmers."""
    if "description" in schema:
        prose = inspect.cleandoc(schema["description"]).partition("\n\nRaises:")[0]
        return schema | {"description": prose}
    return schema


_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
section{border-top:1px solid #8884;padding:.5rem 0}
table{border-collapse:collapse} th,td{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}
code{font-size:.9em;overflow-wrap:anywhere} h3{margin:.6rem 0 .2rem} p{margin:.2rem 0} small{opacity:.75}
"""


def docs_page(document: Schema) -> str:
    """The document as one page for people, without scripts and without anything beside it."""
    parts = [
        f"<h1>{html.escape(document['info']['title'])} {html.escape(document['info']['version'])}: control plane</h1>",
        f"<p>{_prose(_ABOUT)}</p>",
        '<p><a href="/api/v1/openapi.json">openapi.json</a> is the same for programs.</p>',
    ]
    tag = ""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                parts.append(f'<h2 id="{html.escape(tag, quote=True)}">{html.escape(tag)}</h2>')
            parts.append(_section(method, path, operation))
    parts.append("<h2>Schemas</h2>")
    parts += [_schema_section(name, schema) for name, schema in document["components"]["schemas"].items()]
    head = (
        f'<meta charset="utf-8"><title>Tandem: control plane</title><style>{_STYLE}</style>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _section(method: str, path: str, operation: Schema) -> str:
    role = f" <small>{operation['x-role']}</small>" if "x-role" in operation else ""
    lines = [
        f"<h3><code>{method.upper()} {html.escape(path)}</code>{role}</h3>",
        f"<p>{_prose(operation['summary'])}</p>",
    ]
    lines += [f"<p>{_prose(operation['description'])}</p>"] if "description" in operation else []
    queries = [one for one in operation.get("parameters", []) if one["in"] == "query"]
    rows = [(one["name"], _prose(one["description"])) for one in queries]
    body = operation.get("requestBody")
    rows += [("body", _kind(body["content"][_JSON]["schema"]))] if body else []
    for status, answer in operation["responses"].items():
        for media, content in answer.get("content", {}).items():
            if int(status) < 300:
                rows.append((status, _kind(content["schema"]) or html.escape(media)))
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{told}</td></tr>" for name, told in rows)
    return f"<section>{''.join(lines)}<table>{cells}</table></section>"


def _schema_section(name: str, schema: Schema) -> str:
    required = schema.get("required", [])
    cells = "".join(
        f"<tr><th>{html.escape(key)}{'' if key in required else '?'}</th><td>{_kind(kind)}</td>"
        f"<td>{_prose(kind.get('description', ''))}</td></tr>"
        for key, kind in schema.get("properties", {}).items()
    )
    values = ", ".join(f"<code>{html.escape(str(value))}</code>" for value in schema.get("enum", []))
    told = _prose(schema.get("description", ""))
    anchor = html.escape(name, quote=True)
    heading = f"<h3>{html.escape(name)}</h3><p>{told}</p><p>{values}</p>"
    return f'<section id="{anchor}">{heading}<table>{cells}</table></section>'


def _kind(schema: Schema) -> str:
    """A schema in a few words, with links to the components."""
    if "$ref" in schema:
        name = html.escape(schema["$ref"].rsplit("/", 1)[-1], quote=True)
        return f'<a href="#{name}">{name}</a>'
    for word, joint in (("allOf", " and "), ("anyOf", " or ")):
        if word in schema:
            return joint.join(_kind(part) for part in schema[word])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {})) or 'any JSON'}"
    if schema.get("type") == "object" and schema.get("properties"):
        fields = (f"{html.escape(name)}: {_kind(part)}" for name, part in schema["properties"].items())
        return f"{{{', '.join(fields)}}}"
    kind = schema.get("type", "")
    return html.escape(" or ".join(kind) if isinstance(kind, list) else kind)


def _prose(text: str) -> str:
    """Plain text as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
