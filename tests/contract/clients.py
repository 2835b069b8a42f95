"""The official clients of each URL family, and what their answers say."""

from typing import Any

from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, OpenAI

from tests.serving import Served

FAMILIES = ("openai", "azure", "azure-v1")
API_VERSION = "2024-10-21"


def sync_client(served: Served, family: str = "openai", **options: Any) -> OpenAI:
    """`OpenAI` on /v1 or /openai/v1, or `AzureOpenAI`; the caller closes it."""
    kind, values = (AzureOpenAI, _azure(served)) if family == "azure" else (OpenAI, _openai(served, family))
    return kind(**{**values, "max_retries": 0, **options})


def async_client(served: Served, family: str = "openai", **options: Any) -> AsyncOpenAI:
    """The same, asynchronous."""
    kind, values = (AsyncAzureOpenAI, _azure(served)) if family == "azure" else (AsyncOpenAI, _openai(served, family))
    return kind(**{**values, "max_retries": 0, **options})


def said(text: str) -> list[dict[str, str]]:
    """A conversation of one turn."""
    return [{"role": "user", "content": text}]


def joined(chunks: Any) -> dict[int, str]:
    """The text of each choice of a chat stream."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts


def _azure(served: Served) -> dict[str, str]:
    return {"azure_endpoint": served.url, "api_key": served.key, "api_version": API_VERSION}


def _openai(served: Served, family: str) -> dict[str, str]:
    return {"base_url": served.url + ("/v1" if family == "openai" else "/openai/v1"), "api_key": served.key}
