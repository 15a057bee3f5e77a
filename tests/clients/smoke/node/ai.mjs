// The `ai` package with its providers for OpenAI (responses and chat), Anthropic and Google.

import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createGoogle } from "@ai-sdk/google";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, embedMany, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import { QUESTION, TEXT, assertWaits, collected, raised, scene } from "./scene.mjs";

// How each provider's models are made: one for text, one for embeddings where it has any.
const PROVIDERS = {
  ai_openai: (url, apiKey) => {
    const provider = createOpenAI({ apiKey, baseURL: `${url}/v1` });
    return { chat: provider("gpt-4o-mini"), embedding: provider.embedding("text-embedding-3-small") };
  },
  ai_openai_chat: (url, apiKey) => ({ chat: createOpenAI({ apiKey, baseURL: `${url}/v1` }).chat("gpt-4o-mini") }),
  ai_anthropic: (url, apiKey) => ({ chat: createAnthropic({ apiKey, baseURL: `${url}/v1` })("claude-x") }),
  ai_google: (url, apiKey) => {
    const provider = createGoogle({ apiKey, baseURL: `${url}/v1beta` });
    return { chat: provider("gemini-2.5-flash"), embedding: provider.embedding("gemini-embedding-001") };
  },
};
const SCHEMA = { type: "object", properties: { port: { type: "string" } }, required: ["port"], additionalProperties: false };

function models(access, key = access.free) {
  return PROVIDERS[access.name.replace("node_", "")](access.url, key);
}

function ask(access, key, options = {}) {
  return generateText({ model: models(access, key).chat, prompt: QUESTION, maxRetries: 0, ...options });
}

// Its input is all of the prompt, in every API.
function assertStated(stated, usage) {
  assert.equal(stated.inputTokens, usage.input + usage.cached_input + usage.cache_write);
  assert.equal(stated.inputTokenDetails.cacheReadTokens, usage.cached_input);
  assert.equal(stated.outputTokens, usage.output);
}

async function chatIsCounted(access) {
  const [answer, usage] = await access.counted(() => ask(access));
  assert.equal(answer.text, TEXT);
  assertStated(answer.usage, usage);
}

async function streamIsCounted(access) {
  const [[pieces, stated], usage] = await access.counted(async () => {
    const stream = streamText({ model: models(access).chat, prompt: QUESTION, maxRetries: 0 });
    return [await collected(stream.textStream), await stream.usage];
  });
  assert.deepEqual(pieces, scene.text);
  assertStated(stated, usage);
}

async function toolIsCalled(access) {
  const asked = [];
  const execute = ({ port }) => asked.push(port) && "low at noon";
  const description = "The tides of a port.";
  const tools = { [scene.tool]: tool({ description, inputSchema: jsonSchema(SCHEMA), execute }) };
  const options = { tools, stopWhen: stepCountIs(3) };
  const [answer, usage] = await access.counted(() => ask(access, undefined, options));
  assert.equal(answer.text, TEXT);
  assertStated(answer.totalUsage, usage);
  const [text] = await access.counted(async () => {
    const stream = streamText({ model: models(access).chat, prompt: QUESTION, maxRetries: 0, ...options });
    return await stream.text;
  });
  assert.equal(text, TEXT);
  assert.deepEqual(asked, [scene.arguments.port, scene.arguments.port]);
}

async function textsAreEmbedded(access) {
  const embed = () => embedMany({ model: models(access).embedding, values: ["one", "two"], maxRetries: 0 });
  const [answer] = await access.counted(embed);
  assert.deepEqual(answer.embeddings, [scene.vector, scene.vector]);
}

async function wrongKeyIsAnErrorOfAuthentication(access) {
  const error = await raised(APICallError, () => ask(access, access.wrong));
  assert.equal(error.statusCode, 401);
  assert.match(error.message, /API key/);
  assert.equal(error.isRetryable, false);
}

async function overTheLimitIsToldWhenToComeAgain(access) {
  await ask(access, access.limited);
  const error = await raised(APICallError, () => ask(access, access.limited));
  assert.equal(error.statusCode, 429);
  assert.equal(error.isRetryable, true);
  assertWaits(error.responseHeaders["retry-after"]);
}

async function itWaitsAsLongAsARefusalSays(access) {
  const answer = await access.retried(() => ask(access, access.single, { maxRetries: 2 }));
  assert.equal(answer.text, TEXT);
}

const COMMON = [
  chatIsCounted,
  streamIsCounted,
  toolIsCalled,
  wrongKeyIsAnErrorOfAuthentication,
  overTheLimitIsToldWhenToComeAgain,
  itWaitsAsLongAsARefusalSays,
];

export const CHECKS = {
  ai_openai: [...COMMON, textsAreEmbedded],
  ai_openai_chat: COMMON,
  ai_anthropic: COMMON,
  ai_google: [...COMMON, textsAreEmbedded],
};
