// The official JavaScript client of OpenAI's protocol against a running answerd: node openai_client.mjs ADDRESS.
//
// The chat model is a scripted one (tests/common/upstream.rs) that says "w0 w1 … w19 "; the documents hold one page
// about annual leave.

import assert from "node:assert/strict";

import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "test", maxRetries: 0 });
const words = Array.from({ length: 20 }, (_, n) => `w${n} `).join("");
const messages = [{ role: "user", content: "How many days of annual leave are there?" }];
const completions = client.chat.completions;

// Models.
const names = [];
for await (const model of client.models.list()) names.push(model.id);
assert.deepEqual(names, ["answerd", "far", "all-MiniLM-L6-v2"]);
assert.equal((await client.models.retrieve("far")).id, "far");

// A completion, whole.
const whole = await completions.create({ model: "far", messages });
assert.equal(whole.choices[0].message.content, words);
assert.equal(whole.choices[0].finish_reason, "stop");
assert.equal(whole.usage.total_tokens, 31);
assert.equal(whole.usage.prompt_tokens_details.cached_tokens, 3);

// The same in chunks, with its usage.
let text = "";
let usage = null;
const reasons = [];
const stream = await completions.create({ model: "far", messages, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  if (chunk.usage) {
    assert.deepEqual(chunk.choices, []);
    usage = chunk.usage;
  }
  for (const choice of chunk.choices) {
    text += choice.delta.content ?? "";
    reasons.push(choice.finish_reason);
  }
}
assert.equal(text, words);
assert.equal(usage.completion_tokens, 20);
assert.equal(reasons.at(-1), "stop");

// The client's own assembly of a stream.
const assembled = await completions.stream({ model: "far", messages }).finalChatCompletion();
assert.equal(assembled.choices[0].message.content, words);

// From the documents: sources beside the text.
const answer = await completions.create({ model: "answerd", messages });
assert.equal(answer.sources[0].document_id, "people/leave.md");

// A reader that leaves early.
const left = await completions.create({ model: "far", messages, stream: true });
for await (const _ of left) break;

// Vectors: the client asks for base64 and gives numbers.
const vectors = await client.embeddings.create({ model: "all-MiniLM-L6-v2", input: ["annual leave", "a hotel"] });
assert.deepEqual(vectors.data.map((item) => item.index), [0, 1]);
assert.equal(vectors.data[0].embedding.length, 384);
assert.ok(Math.abs(Math.hypot(...vectors.data[0].embedding) - 1) < 1e-4);

// Errors come as the client's own classes.
await assert.rejects(completions.create({ model: "near", messages }), (error) => {
  assert.ok(error instanceof OpenAI.NotFoundError, String(error));
  assert.equal(error.code, "model_not_found");
  return true;
});
await assert.rejects(completions.create({ model: "far", messages, temperature: 9 }), OpenAI.BadRequestError);

console.log("openai for JavaScript: all as it should be");
