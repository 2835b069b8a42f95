"""LangChain's chat models and embeddings, unmodified, through the OpenAI and the Azure OpenAI API."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings, ChatOpenAI, OpenAIEmbeddings

from tests.serving import Served

pytestmark = pytest.mark.anyio

TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}},
}


FAMILIES = ("/v1", "/openai/v1", "azure")
Model = ChatOpenAI | AzureChatOpenAI


@pytest.fixture(scope="module")
def make(fake: Served) -> Iterator[Callable[..., Model]]:
    """Makes a chat model of a family, and closes all of them at the end: they share their connections."""
    made: list[Model] = []

    def model(family: str, name: str = "tiny", **more: Any) -> Model:
        more |= {"api_key": fake.key, "max_retries": 0}
        if family == "azure":
            azure = {"azure_endpoint": fake.url, "azure_deployment": name, "api_version": "2024-10-21"}
            made.append(AzureChatOpenAI(**azure, **more))
        else:
            made.append(ChatOpenAI(base_url=f"{fake.url}{family}", model=name, **more))
        return made[-1]

    yield model
    for one in made:
        one.root_client.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_invoke(make: Callable[..., Model], family: str) -> None:
    answer = make(family).invoke([SystemMessage("Be brief."), HumanMessage("one two three")])
    assert answer.content == "one two three"
    assert answer.usage_metadata is not None
    assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (7, 3)
    assert answer.response_metadata["finish_reason"] == "stop"


@pytest.mark.parametrize("family", FAMILIES)
def test_stream(make: Callable[..., Model], family: str) -> None:
    chunks = list(make(family, stream_usage=True).stream("one two three"))
    assert "".join(str(chunk.content) for chunk in chunks) == "one two three"
    assert len([chunk for chunk in chunks if chunk.content]) == 3
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert [usage["output_tokens"] for usage in usages] == [3]


@pytest.mark.parametrize("family", FAMILIES)
async def test_asynchronous(make: Callable[..., Model], family: str) -> None:
    model = make(family)
    assert (await model.ainvoke("one two")).content == "one two"
    assert "".join([str(chunk.content) async for chunk in model.astream("one two")]) == "one two"
    await model.root_async_client.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_tools(make: Callable[..., Model], family: str) -> None:
    model = make(family, "tools").bind_tools([TOOL], tool_choice="look")
    answer = model.invoke("go")
    assert isinstance(answer, AIMessage)
    [call] = answer.tool_calls
    assert (call["name"], call["args"]) == ("look", {"word": "text"})
    turns = [HumanMessage("go"), answer, ToolMessage("seen", tool_call_id=call["id"])]
    assert make(family, "tools").invoke(turns).content == "seen"


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(make: Callable[..., Model], method: str) -> None:
    schema = {"title": "Answer", "type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    model = make("/v1", "tools").with_structured_output(schema, method=method)
    assert model.invoke("how many? answer in json") == ({} if method == "json_mode" else {"count": 1})


def test_embeddings(fake: Served) -> None:
    """LangChain counts tokens by OpenAI's vocabulary, which it would download, unless it is told not to."""
    options: dict[str, Any] = {"model": "embedder", "api_key": fake.key, "check_embedding_ctx_length": False}
    with_openai = OpenAIEmbeddings(base_url=f"{fake.url}/v1", **options)
    with_azure = AzureOpenAIEmbeddings(azure_endpoint=fake.url, api_version="2024-10-21", **options)
    vector = with_openai.embed_query("one two")
    assert len(vector) == 64
    assert with_azure.embed_documents(["one two", "three"])[0] == vector
    for one in (with_openai, with_azure):
        one.client._client.close()
