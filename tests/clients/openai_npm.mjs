// The official JavaScript client, unmodified, through the OpenAI and the Azure OpenAI API.
// Run by test_npm.py: node openai_npm.mjs URL KEY, in a folder where package.json was installed.

import assert from "node:assert/strict";
import OpenAI, { AzureOpenAI } from "openai";

const [url, apiKey] = process.argv.slice(2);
const clients = {
  openai: new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 }),
  "azure v1": new OpenAI({ baseURL: `${url}/openai/v1`, apiKey, maxRetries: 0 }),
  azure: new AzureOpenAI({ endpoint: url, apiKey, apiVersion: "2024-10-21", maxRetries: 0 }),
};
const said = (content) => ({ model: "tiny", messages: [{ role: "user", content }] });

async function chat(client) {
  const answer = await client.chat.completions.create(said("one two three"));
  assert.equal(answer.choices[0].message.content, "one two three");
  assert.deepEqual([answer.usage.prompt_tokens, answer.usage.completion_tokens], [4, 3]);
  const { request_id } = await client.chat.completions.create(said("x")).withResponse();
  assert.match(request_id, /^req_[0-9a-f]{32}$/);
}

async function stream(client) {
  const chunks = await client.chat.completions.create({
    ...said("one two three"),
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  for await (const chunk of chunks) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, "one two three");
  assert.equal(usage.completion_tokens, 3);
  const final = await client.chat.completions.stream(said("one two")).finalContent();
  assert.equal(final, "one two");
}

async function embeddings(client) {
  const input = ["one two", "three"];
  const encoded = await client.embeddings.create({ model: "embedder", input });
  const plain = await client.embeddings.create({ model: "embedder", input, encoding_format: "float" });
  assert.equal(encoded.data[0].embedding.length, 64);
  encoded.data.forEach((item, index) =>
    item.embedding.forEach((value, place) =>
      assert.ok(Math.abs(value - plain.data[index].embedding[place]) < 1e-6),
    ),
  );
}

async function errors(client) {
  await assert.rejects(client.chat.completions.create({ ...said("x"), model: "nobody" }), OpenAI.NotFoundError);
  await assert.rejects(
    client.chat.completions.create({ ...said("x"), temperature: 3 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
  );
  await assert.rejects(async () => {
    for await (const _ of await client.chat.completions.create({ ...said("fake:drop=1 one two"), stream: true }));
  }, OpenAI.APIError);
}

for (const [family, client] of Object.entries(clients)) {
  for (const check of [chat, stream, embeddings, errors]) {
    await check(client);
    console.log(`ok: ${family} ${check.name}`);
  }
  if (family !== "azure") {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert.deepEqual(names, ["embedder", "tiny", "tools"]);
  }
}
