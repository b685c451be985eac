// An OpenID provider for tests: node provider.mjs PORT REDIRECT_URI LOGOUT_URI PEOPLE, where PEOPLE is {"login": {claims}} in JSON.
// Anybody signs in with any password; whoever stands in PEOPLE has claims. PKCE is required.
import { Provider } from "oidc-provider";

const [port, redirectUri, logoutUri, people] = process.argv.slice(2);
const known = JSON.parse(people);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "headend",
      client_secret: "between the two",
      redirect_uris: [redirectUri],
      response_types: ["code"],
      grant_types: ["authorization_code"],
      backchannel_logout_uri: logoutUri,
      backchannel_logout_session_required: true,
    },
  ],
  pkce: { required: () => true },
  claims: { openid: ["sub"], profile: ["preferred_username", "groups"] },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, ...known[id] }) }),
  features: { devInteractions: { enabled: true }, backchannelLogout: { enabled: true } },
  fetch: (url, { dispatcher, ...options }) => fetch(url, options), // its own refuses addresses of this machine
  cookies: { keys: ["of tests"] },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("listening"));
