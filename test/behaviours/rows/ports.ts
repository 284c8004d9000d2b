import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Sandbox } from 'e2b';
import WebSocket from 'ws';
import type { TestService } from '../../helpers/service.ts';
import { eventually, start } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

const PORT = 8123;

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

/** Answers `POST /echo` with the body, `GET /slow` with two lines half a second apart, and WebSockets with what they say. */
const SERVER = `
import http.server, hashlib, base64, time, struct
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        self.send_response(201); self.send_header('x-method', self.command); self.send_header('x-asked', self.headers.get('x-ask', ''))
        self.send_header('content-length', str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        if self.headers.get('upgrade', '').lower() == 'websocket': return self.socket()
        if self.path != '/slow': return self.send_error(404)
        self.send_response(200); self.send_header('transfer-encoding', 'chunked'); self.end_headers()
        for line in (b'first', b'second'):
            self.wfile.write(b'%x\\r\\n%s\\r\\n' % (len(line), line)); self.wfile.flush(); time.sleep(0.7)
        self.wfile.write(b'0\\r\\n\\r\\n')
    def socket(self):
        key = self.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        for name, value in (('upgrade', 'websocket'), ('connection', 'Upgrade'), ('sec-websocket-accept', accept)): self.send_header(name, value)
        self.end_headers(); self.wfile.flush()
        while True:
            kind, length = self.rfile.read(2)
            length &= 127
            mask = self.rfile.read(4)
            said = bytes(byte ^ mask[n % 4] for n, byte in enumerate(self.rfile.read(length)))
            self.wfile.write(bytes((kind, length)) + said); self.wfile.flush()
            if kind & 15 == 8: break
        self.close_connection = True
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', ${PORT}), Handler).serve_forever()
`;

async function serve(sandbox: Sandbox, service: TestService): Promise<void> {
  await sandbox.files.write('server.py', SERVER);
  await start(sandbox, 'exec python3 server.py');
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
