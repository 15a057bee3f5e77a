// A real issuer (OpenID Connect): `node provider.mjs FOLDER PORT CALLBACK SECRET`, with the packages in FOLDER. Whoever signs in
// says as whom, and any password does. A name with `unverified` in it has an address that nobody has verified.

import { pathToFileURL } from "node:url";

const [folder, port, callback, secret] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${folder}/node_modules/oidc-provider/lib/index.js`));

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{
    client_id: "keymeter",
    client_secret: secret,
    redirect_uris: [callback],
    response_types: ["code"],
    grant_types: ["authorization_code"],
  }],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  pkce: { required: () => true },
  cookies: { keys: ["of the tests"] },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: !id.includes("unverified"), name: `Person ${id}` }),
  }),
});
provider.listen(Number(port), "127.0.0.1");
