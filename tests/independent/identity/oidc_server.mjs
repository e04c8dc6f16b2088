// A real OpenID provider, on loopback and over TLS.
//
//     node oidc_server.mjs PACKAGES DIRECTORY
//
// Takes oidc-provider from `node_modules` in the directory of packages. Serves with the certificate and key in `server.pem` of the other directory. Its clients and the claims of their tokens are in
// `clients.json` there: {"NAME": {"secret": "…", "claims": {…}}}. Prints `port=N` when it is ready. A test may change it:
//
// - POST /token with the header `X-Test-Lifetime: SECONDS` or `X-Test-Algorithm: RS256` issues such a token.
// - POST /-/rotate signs with new keys, and publishes the old ones further. With `?forget`, it publishes them no longer.
// - GET /-/counts tells how often the keys were fetched.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [packages, place] = process.argv.slice(2);
const { Provider } = createRequire(join(packages, '/'))('oidc-provider');
const pem = readFileSync(join(place, 'server.pem'));
const clients = JSON.parse(readFileSync(join(place, 'clients.json')));
const counts = { fetched: 0 };
let keys = [];
let handle;

function newKeys() {
  const pairs = { ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }), RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }) };
  return Object.entries(pairs).map(([alg, { privateKey }]) => ({ ...privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: randomUUID() }));
}

function provider(issuer) {
  return new Provider(issuer, {
    // The provider signs with the first key of an algorithm.
    jwks: { keys },
    clients: Object.entries(clients).map(([client_id, { secret }]) => ({
      client_id,
      client_secret: secret,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    })),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (context, audience) => ({
          audience,
          scope: '',
          accessTokenFormat: 'jwt',
          accessTokenTTL: Number(context.get('X-Test-Lifetime') || 3600),
          jwt: { sign: { alg: context.get('X-Test-Algorithm') || 'ES256' } },
        }),
      },
    },
    extraTokenClaims: (_, token) => clients[token.clientId].claims,
  });
}

const server = createServer({ cert: pem, key: pem }, (request, response) => {
  const { pathname, search } = new URL(request.url, 'https://localhost');
  if (request.method === 'POST' && pathname === '/-/rotate') {
    keys = [...newKeys(), ...(search === '?forget' ? [] : keys)];
    handle = provider(issuer()).callback();
    response.end();
  } else if (pathname === '/-/counts') {
    response.end(JSON.stringify(counts));
  } else {
    counts.fetched += pathname === '/jwks';
    handle(request, response);
  }
});

function issuer() {
  return `https://127.0.0.1:${server.address().port}`;
}

// The provider warns that it forgets everything when it ends.
console.warn = () => {};
server.listen(0, '127.0.0.1', () => {
  keys = newKeys();
  handle = provider(issuer()).callback();
  console.log(`port=${server.address().port}`);
});
