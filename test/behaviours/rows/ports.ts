import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Sandbox } from 'e2b';
import WebSocket from 'ws';
import type { TestService } from '../../helpers/service.ts';
import { eventually, start } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

const PORT = 8123;
const TOKEN = 'e2b-traffic-access-token';
const SERVER = new URL('../../helpers/port-server.py', import.meta.url);

const urlOf = (service: TestService, sandbox: Sandbox, path: string): string =>
  `${service.url}/sandbox/${sandbox.sandboxId}/${PORT}${path}`;

/** Until something listens. */
const served = (url: string): Promise<unknown> =>
  eventually(
    'the server serves',
    async () => {
      const response = await fetch(url);
      await response.arrayBuffer();
      return response.status;
    },
    (status) => status !== 502,
  );

async function serve(sandbox: Sandbox, service: TestService): Promise<void> {
  await sandbox.files.write('server.py', await readFile(SERVER, 'utf8'));
  await start(sandbox, `exec python3 server.py ${PORT}`);
  await served(urlOf(service, sandbox, '/'));
}

export default [
  {
    name: 'a server is reached by path, by headers and by host name; a port with none is a 502, as is a dead sandbox',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create();
      const byPath = urlOf(service, sandbox, '/page');
      const closed = await fetch(byPath);
      assert.deepEqual(
        [closed.status, await closed.json()],
        [
          502,
          {
            sandboxId: sandbox.sandboxId,
            message: 'The sandbox is running but port is not open',
            port: PORT,
            code: 502,
          },
        ],
      );
      await start(sandbox, `cd /tmp && echo served > page && exec python3 -m http.server ${PORT} --bind 127.0.0.1`);
      await served(byPath);
      assert.equal(await (await fetch(byPath)).text(), 'served\n');
      const headers = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(PORT) };
      assert.equal(await (await fetch(`${service.url}/page`, { headers })).text(), 'served\n');
      const byName = request({
        host: '127.0.0.1',
        port: service.port,
        path: '/page',
        headers: { host: `${PORT}-${sandbox.sandboxId}.localhost` },
      }).end();
      const [response] = (await once(byName, 'response')) as [AsyncIterable<Buffer> & { statusCode: number }];
      let text = '';
      for await (const chunk of response) text += chunk;
      assert.deepEqual([response.statusCode, text], [200, 'served\n']);
      await sandbox.kill();
      const dead = await fetch(byPath);
      assert.equal(dead.status, 502);
      assert.deepEqual(await dead.json(), {
        sandboxId: sandbox.sandboxId,
        message: 'The sandbox was not found',
        code: 502,
      });
    },
  },
  {
    name: 'a server behind a port: bodies both ways, headers, answers as they come, WebSockets',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const sandbox = await create();
      await serve(sandbox, service);
      const body = 'x'.repeat(300_000);
      const echo = await fetch(urlOf(service, sandbox, '/echo'), {
        method: 'POST',
        body,
        headers: { 'x-ask': 'this' },
      });
      assert.deepEqual([echo.status, echo.headers.get('x-asked'), await echo.text()], [201, 'this', body]);

      const slow = await fetch(urlOf(service, sandbox, '/slow'));
      const chunks: { text: string; at: number }[] = [];
      for await (const chunk of slow.body!) chunks.push({ text: Buffer.from(chunk).toString(), at: performance.now() });
      assert.deepEqual(
        chunks.map((one) => one.text),
        ['first', 'second'],
      );
      assert.ok(chunks[1]!.at - chunks[0]!.at > 300, 'the first part does not wait for the second');

      const socket = new WebSocket(urlOf(service, sandbox, '/socket').replace('http', 'ws'));
      await once(socket, 'open');
      for (const word of ['one', 'two é']) {
        socket.send(word);
        const [said] = (await once(socket, 'message')) as [Buffer];
        assert.equal(said.toString(), word);
      }
      const cut = once(socket, 'close');
      await sandbox.kill();
      await Promise.race([
        cut,
        sleep(10_000, undefined, { ref: false }).then(() => assert.fail('a WebSocket outlived its sandbox')),
      ]);
    },
  },
  {
    name: 'traffic that is not public takes a token, envd’s none of it; servers see the host that was asked for',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const network = { allowPublicTraffic: false, maskRequestHost: 'shop.test:$' + '{PORT}' };
      const sandbox = await create({ network });
      const token = sandbox.trafficAccessToken ?? '';
      assert.match(token, /^[0-9a-f]{64}$/);
      await sandbox.files.write('server.py', await readFile(SERVER, 'utf8'));
      await start(sandbox, `exec python3 server.py ${PORT}`);
      const url = urlOf(service, sandbox, '/');
      const ask = (given?: string) => fetch(url, given === undefined ? {} : { headers: { [TOKEN]: given } });
      await eventually(
        'the server serves',
        async () => (await ask(token)).status,
        (status) => status === 200,
      );
      const { host } = (await (await ask(token)).json()) as { host: string };
      assert.equal(host, `shop.test:${PORT}`);
      for (const [given, text] of [
        [undefined, `Token header '${TOKEN}' is missing`],
        [token.replace(/^./, 'x'), `Provided token in header '${TOKEN}' is invalid`],
      ] as const) {
        const refused = await ask(given);
        assert.equal(refused.status, 403);
        assert.deepEqual(await refused.json(), {
          sandboxId: sandbox.sandboxId,
          message: `Sandbox is secured with traffic access token. ${text}`,
          code: 403,
        });
      }
      await sandbox.pause();
      const again = await sandbox.connect();
      assert.equal(again.trafficAccessToken, token);
      assert.equal((await ask()).status, 403);
      assert.equal((await ask(token)).status, 200);
    },
  },
  {
    name: 'a server on 0.0.0.0 is reached, and the loopback is the sandbox’s own',
    on: 'every kind',
    run: async ({ sandbox: create, service }) => {
      const [one, other] = await Promise.all([create(), create()]);
      await start(one, `cd /etc && exec python3 -m http.server ${PORT} --bind 0.0.0.0`);
      await served(urlOf(service, one, '/hostname'));
      assert.equal((await (await fetch(urlOf(service, one, '/hostname'))).text()).trim(), one.sandboxId);
      const curl = `curl -s -m 5 http://localhost:${PORT}/hostname`;
      assert.equal((await one.commands.run(curl)).stdout.trim(), one.sandboxId);
      await assert.rejects(other.commands.run(curl));
    },
  },
] satisfies Behaviour[];
