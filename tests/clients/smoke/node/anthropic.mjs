// The `@anthropic-ai/sdk` package: messages, tools, the count of tokens, models.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { QUESTION, TEXT, assertWaits, collected, raised, scene } from "./scene.mjs";

const MODEL = "claude-x";
const REQUEST = { model: MODEL, max_tokens: 64, messages: [{ role: "user", content: QUESTION }] };
const SCHEMA = { type: "object", properties: { port: { type: "string" } }, required: ["port"] };
const TOOL = { name: scene.tool, description: "The tides of a port.", input_schema: SCHEMA };

function client(access, apiKey = access.free, maxRetries = 0) {
  return new Anthropic({ apiKey, baseURL: access.url, maxRetries, timeout: 20_000 });
}

function ask(access, options = {}, ...rest) {
  return client(access, ...rest).messages.create({ ...REQUEST, ...options });
}

function assertStated(stated, usage) {
  assert.equal(stated.input_tokens, usage.input);
  assert.equal(stated.cache_read_input_tokens, usage.cached_input);
  assert.equal(stated.cache_creation_input_tokens, usage.cache_write);
  assert.equal(stated.output_tokens, usage.output);
}

async function chatIsCounted(access) {
  const [answer, usage] = await access.counted(() => ask(access));
  assert.equal(answer.content[0].text, TEXT);
  assertStated(answer.usage, usage);
}

async function streamIsCounted(access) {
  const pieces = [];
  const stream = () => client(access).messages.stream(REQUEST).on("text", (piece) => pieces.push(piece)).finalMessage();
  const [message, usage] = await access.counted(stream);
  assert.deepEqual(pieces, scene.text);
  assert.equal(message.content[0].text, TEXT);
  assertStated(message.usage, usage);
}

async function toolIsCalled(access) {
  const asked = [];
  const run = ({ port }) => asked.push(port) && "low at noon";
  for (const stream of [false, true]) {
    const tools = [{ ...TOOL, run, parse: (input) => input }];
    const runner = () => client(access).beta.messages.toolRunner({ ...REQUEST, tools, stream }).runUntilDone();
    const [message] = await access.counted(runner);
    assert.equal(message.content[0].text, TEXT);
  }
  assert.deepEqual(asked, [scene.arguments.port, scene.arguments.port]);
}

async function countingTokensIsFree(access) {
  const { model, messages } = REQUEST;
  const counted = await access.uncounted(() => client(access).messages.countTokens({ model, messages }));
  assert.equal(counted.input_tokens, 14);
}

async function modelsAreListed(access) {
  const { models } = client(access);
  const listed = await collected(models.list());
  assert(listed.some((model) => model.id === MODEL && model.type === "model"), JSON.stringify(listed));
  assert.equal((await models.retrieve(MODEL)).id, MODEL);
}

async function wrongKeyIsAnErrorOfAuthentication(access) {
  for (const stream of [false, true]) {
    const error = await raised(Anthropic.AuthenticationError, () => ask(access, { stream }, access.wrong));
    assert.equal(error.error.error.type, "authentication_error");
    assert(error.requestID);
  }
}

async function overTheLimitIsToldWhenToComeAgain(access) {
  await ask(access, {}, access.limited);
  const error = await raised(Anthropic.RateLimitError, () => ask(access, {}, access.limited));
  assertWaits(error.headers.get("retry-after"));
}

async function itWaitsAsLongAsARefusalSays(access) {
  const answer = await access.retried(() => ask(access, {}, access.single, 2));
  assert.equal(answer.content[0].text, TEXT);
}

export const CHECKS = {
  anthropic: [
    chatIsCounted,
    streamIsCounted,
    toolIsCalled,
    countingTokensIsFree,
    modelsAreListed,
    wrongKeyIsAnErrorOfAuthentication,
    overTheLimitIsToldWhenToComeAgain,
    itWaitsAsLongAsARefusalSays,
  ],
};
