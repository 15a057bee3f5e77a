// The `@google/genai` package, under the version of the API that it takes by itself, and under both by name.

import assert from "node:assert/strict";
import { ApiError, GoogleGenAI } from "@google/genai";
import { QUESTION, TEXT, collected, raised, scene } from "./scene.mjs";

const MODEL = "gemini-2.5-flash";
const REQUEST = { model: MODEL, contents: QUESTION };
const SCHEMA = { type: "object", properties: { port: { type: "string" } }, required: ["port"] };
const TOOL = { name: scene.tool, description: "The tides of a port.", parametersJsonSchema: SCHEMA };

function models(access, apiVersion, apiKey = access.free) {
  return new GoogleGenAI({ apiKey, httpOptions: { baseUrl: access.url, apiVersion, timeout: 20_000 } }).models;
}

function assertStated(stated, usage) {
  assert.equal(stated.promptTokenCount, usage.input + usage.cached_input);
  assert.equal(stated.cachedContentTokenCount, usage.cached_input);
  assert.equal(stated.candidatesTokenCount + stated.thoughtsTokenCount, usage.output);
}

async function chatIsCounted(access) {
  for (const version of [undefined, "v1", "v1beta"]) {
    const [answer, usage] = await access.counted(() => models(access, version).generateContent(REQUEST));
    assert.equal(answer.text, TEXT);
    assertStated(answer.usageMetadata, usage);
  }
}

async function streamIsCounted(access) {
  for (const version of [undefined, "v1beta"]) {
    const ask = async () => collected(await models(access, version).generateContentStream(REQUEST));
    const [pieces, usage] = await access.counted(ask);
    assert.deepEqual(pieces.map((piece) => piece.text).filter(Boolean), scene.text);
    assertStated(pieces.at(-1).usageMetadata, usage);
  }
}

async function toolIsCalled(access) {
  const config = { tools: [{ functionDeclarations: [TOOL] }] };
  const [answer] = await access.counted(() => models(access).generateContent({ ...REQUEST, config }));
  assert.deepEqual(answer.functionCalls[0].args, scene.arguments);
  const result = { functionResponse: { name: scene.tool, response: { tide: "low at noon" } } };
  const contents = [{ role: "user", parts: [{ text: QUESTION }] }, answer.candidates[0].content, { role: "user", parts: [result] }];
  const [last] = await access.counted(() => models(access).generateContent({ ...REQUEST, contents, config }));
  assert.equal(last.text, TEXT);
}

async function textsAreEmbedded(access) {
  const embed = () => models(access).embedContent({ model: "gemini-embedding-001", contents: ["one", "two"] });
  const [answer] = await access.counted(embed);
  assert.deepEqual(answer.embeddings.map((entry) => entry.values), [scene.vector, scene.vector]);
}

async function countingTokensIsFree(access) {
  const counted = await access.uncounted(() => models(access).countTokens(REQUEST));
  assert.equal(counted.totalTokens, 14);
}

async function modelsAreListed(access) {
  for (const version of [undefined, "v1beta"]) {
    const listed = (await collected(await models(access, version).list())).map((model) => model.name);
    assert(listed.includes(`models/${MODEL}`), listed);
    assert.equal((await models(access, version).get({ model: MODEL })).name, `models/${MODEL}`);
  }
}

async function wrongKeyIsAnErrorOfAuthentication(access) {
  for (const method of ["generateContent", "generateContentStream"]) {
    const error = await raised(ApiError, () => models(access, undefined, access.wrong)[method](REQUEST));
    assert.equal(error.status, 401);
    assert.equal(JSON.parse(error.message).error.status, "UNAUTHENTICATED");
  }
}

// The package shows no headers; the message says what they say.
async function overTheLimitIsAnError(access) {
  await models(access, undefined, access.limited).generateContent(REQUEST);
  const error = await raised(ApiError, () => models(access, undefined, access.limited).generateContent(REQUEST));
  assert.equal(error.status, 429);
  assert.equal(JSON.parse(error.message).error.status, "RESOURCE_EXHAUSTED");
  assert.match(error.message, /retry in/);
}

export const CHECKS = {
  google_genai: [
    chatIsCounted,
    streamIsCounted,
    toolIsCalled,
    textsAreEmbedded,
    countingTokensIsFree,
    modelsAreListed,
    wrongKeyIsAnErrorOfAuthentication,
    overTheLimitIsAnError,
  ],
};
