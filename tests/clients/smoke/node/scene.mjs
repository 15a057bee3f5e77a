// What a client for Node has of the scene, which is told in SMOKE: the gateway's address, three secrets and a wrong one.

import assert from "node:assert/strict";

export const scene = JSON.parse(process.env.SMOKE);
export const TEXT = scene.text.join("");
export const QUESTION = "How do tides work?";
const PATIENCE = 20_000;
const KINDS = ["input", "cached_input", "cache_write", "output"];

export class Access {
  constructor(name) {
    this.name = `node_${name}`;
    this.url = scene.url;
    for (const kind of ["free", "limited", "single", "wrong"]) this[kind] = `${scene.secrets}${this.name}-${kind}`;
  }

  // Holds what the metrics grow by while `act` runs against what the upstream stated, and returns both's value with the result.
  async counted(act) {
    const [metered, stated] = [await this.metered(), await this.stated()];
    const result = await act();
    const usage = grown(stated, await this.stated());
    assert(usage.input > 0, "the upstream has stated nothing");
    let seen;
    const agree = async () => JSON.stringify((seen = grown(metered, await this.metered()))) === JSON.stringify(usage);
    await until(agree, () => `the upstream stated ${JSON.stringify(usage)}, and the metrics grew by ${JSON.stringify(seen)}`);
    return [result, usage];
  }

  async uncounted(act) {
    const before = await this.metered();
    const result = await act();
    assert.deepEqual(await this.metered(), before);
    return result;
  }

  // The only place of the key `single` is taken until a request has been refused, which is then told to wait a second.
  async retried(act) {
    const refusals = `keymeter_rejections_total{key_id="key_${this.name}_single"`;
    const before = await this.metric(refusals);
    const holding = await this.endlessStream();
    const free = async () => {
      const refused = async () => (await this.metric(refusals)) > before;
      await until(refused, () => "no request was refused").finally(() => holding.abort());
    };
    const began = performance.now();
    const timed = async () => [await act(), performance.now()];
    const [[result, ended]] = await Promise.all([timed(), free()]);
    assert.equal(await this.metric(refusals), before + 1, "it did not wait for as long as it was told to");
    assert(ended - began >= 1000, `it tried again within ${ended - began} ms`);
    return result;
  }

  async endlessStream() {
    const controller = new AbortController();
    const response = await fetch(`${this.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${this.single}`, "content-type": "application/json" },
      body: JSON.stringify({ model: "endless", stream: true, messages: [{ role: "user", content: "Go on." }] }),
      signal: controller.signal,
    });
    await response.body.getReader().read();
    return controller;
  }

  async stated() {
    const response = await fetch(scene.stated);
    const stated = await response.json();
    return Object.fromEntries(KINDS.map((kind) => [kind, stated[kind] ?? 0]));
  }

  async metered() {
    const key = `keymeter_tokens_total{key_id="key_${this.name}_free",`;
    const values = await Promise.all(KINDS.map((kind) => this.metric(key, `type="${kind}"`)));
    return Object.fromEntries(KINDS.map((kind, index) => [kind, values[index]]));
  }

  // The sum of the series that have these parts.
  async metric(...parts) {
    const response = await fetch(scene.metrics);
    const lines = (await response.text()).split("\n").filter((line) => parts.every((part) => line.includes(part)));
    return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
  }
}

export async function raised(kind, act) {
  let result;
  try {
    result = await act();
  } catch (error) {
    assert(error instanceof kind, error);
    return error;
  }
  assert.fail(`no ${kind.name}, but ${JSON.stringify(result)}`);
}

export async function collected(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}

// A refusal says when its window has room again.
export function assertWaits(retryAfter) {
  assert(Number(retryAfter) >= 1 && Number(retryAfter) <= 60, `retry-after: ${retryAfter}`);
}

function grown(before, after) {
  return Object.fromEntries(KINDS.map((kind) => [kind, after[kind] - before[kind]]));
}

async function until(condition, complaint) {
  const deadline = performance.now() + PATIENCE;
  while (!(await condition())) {
    assert(performance.now() < deadline, complaint());
    await new Promise((done) => setTimeout(done, 10));
  }
}
