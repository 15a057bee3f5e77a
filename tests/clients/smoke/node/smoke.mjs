// Runs the checks of the clients that SMOKE names, one after the other. The last line is `N passed, M failed`; the exit
// code is 1 if any failed.

import { CHECKS as AI } from "./ai.mjs";
import { CHECKS as ANTHROPIC } from "./anthropic.mjs";
import { CHECKS as GOOGLE_GENAI } from "./google_genai.mjs";
import { CHECKS as OPENAI } from "./openai.mjs";
import { Access, scene } from "./scene.mjs";

const checks = { ...OPENAI, ...ANTHROPIC, ...GOOGLE_GENAI, ...AI };
let passed = 0;
let failed = 0;
for (const name of scene.names) {
  for (const check of checks[name]) {
    const words = check.name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
    try {
      await check(new Access(name));
      passed += 1;
      console.log(`ok      ${name}: ${words}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${name}: ${words}`, error);
    }
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
