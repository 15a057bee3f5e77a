// The `openai` package: chat, responses, embeddings, models.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { QUESTION, TEXT, assertWaits, collected, raised, scene } from "./scene.mjs";

const MODEL = "gpt-4o-mini";
const MESSAGES = [{ role: "user", content: QUESTION }];
const PARAMETERS = { type: "object", properties: { port: { type: "string" } }, required: ["port"], additionalProperties: false };
const FUNCTION = { name: scene.tool, description: "The tides of a port.", parameters: PARAMETERS, strict: true };

function client(access, apiKey = access.free, maxRetries = 0) {
  return new OpenAI({ apiKey, baseURL: `${access.url}/v1`, maxRetries, timeout: 20_000 });
}

function chat(access, options = {}, ...rest) {
  return client(access, ...rest).chat.completions.create({ model: MODEL, messages: MESSAGES, ...options });
}

function assertStated(stated, usage) {
  assert.equal(stated.prompt_tokens, usage.input + usage.cached_input);
  assert.equal(stated.prompt_tokens_details.cached_tokens, usage.cached_input);
  assert.equal(stated.completion_tokens, usage.output);
}

async function chatIsCounted(access) {
  const [answer, usage] = await access.counted(() => chat(access));
  assert.equal(answer.choices[0].message.content, TEXT);
  assertStated(answer.usage, usage);
}

async function streamIsCounted(access) {
  const asked = { stream: true, stream_options: { include_usage: true } };
  const [pieces, usage] = await access.counted(async () => collected(await chat(access, asked)));
  assert.deepEqual(pieces.map((piece) => piece.choices[0]?.delta.content).filter(Boolean), scene.text);
  assertStated(pieces.at(-1).usage, usage);
  // The gateway asks for the usage of one that did not, and takes out what it got.
  const [unasked] = await access.counted(async () => collected(await chat(access, { stream: true })));
  assert(unasked.every((piece) => !piece.usage && piece.choices.length === 1));
}

async function responsesAreCounted(access) {
  const { responses } = client(access);
  const [answer, usage] = await access.counted(() => responses.create({ model: MODEL, input: QUESTION }));
  assert.equal(answer.output_text, TEXT);
  assert.equal(answer.usage.output_tokens, usage.output);
  const [final, streamed] = await access.counted(() => responses.stream({ model: MODEL, input: QUESTION }).finalResponse());
  assert.equal(final.output_text, TEXT);
  assert.equal(final.usage.input_tokens, streamed.input + streamed.cached_input);
}

async function toolIsCalled(access) {
  const asked = [];
  const run = ({ port }) => asked.push(port) && "low at noon";
  const tools = [{ type: "function", function: { ...FUNCTION, function: run, parse: JSON.parse } }];
  for (const stream of [false, true]) {
    const runner = () => client(access).chat.completions.runTools({ model: MODEL, messages: MESSAGES, tools, stream });
    const [text] = await access.counted(() => runner().finalContent());
    assert.equal(text, TEXT);
  }
  assert.deepEqual(asked, [scene.arguments.port, scene.arguments.port]);
}

async function textsAreEmbedded(access) {
  const embed = () => client(access).embeddings.create({ model: "text-embedding-3-small", input: ["one", "two"] });
  const [answer, usage] = await access.counted(embed);
  assert.deepEqual(answer.data.map((entry) => entry.embedding), [scene.vector, scene.vector]);
  assert.equal(answer.usage.prompt_tokens, usage.input);
}

async function modelsAreListed(access) {
  const { models } = client(access);
  const listed = (await collected(models.list())).map((model) => model.id);
  assert(listed.includes(MODEL), listed);
  assert.equal((await models.retrieve(MODEL)).id, MODEL);
}

async function wrongKeyIsAnErrorOfAuthentication(access) {
  for (const stream of [false, true]) {
    const error = await raised(OpenAI.AuthenticationError, () => chat(access, { stream }, access.wrong));
    assert.equal(error.code, "invalid_api_key");
  }
}

async function overTheLimitIsToldWhenToComeAgain(access) {
  await chat(access, {}, access.limited);
  const error = await raised(OpenAI.RateLimitError, () => chat(access, {}, access.limited));
  assertWaits(error.headers.get("retry-after"));
}

async function itWaitsAsLongAsARefusalSays(access) {
  const answer = await access.retried(() => chat(access, {}, access.single, 2));
  assert.equal(answer.choices[0].message.content, TEXT);
}

export const CHECKS = {
  openai: [
    chatIsCounted,
    streamIsCounted,
    responsesAreCounted,
    toolIsCalled,
    textsAreEmbedded,
    modelsAreListed,
    wrongKeyIsAnErrorOfAuthentication,
    overTheLimitIsToldWhenToComeAgain,
    itWaitsAsLongAsARefusalSays,
  ],
};
