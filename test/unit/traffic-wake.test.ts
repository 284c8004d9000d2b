/** Requests for a sandbox that does not run: held while it is resumed, refused when nothing can be waited for. */
import assert from 'node:assert/strict';
import { request } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'node:test';
import { createTrafficServer, type Knock, type TrafficTarget } from '../../src/node/traffic/server.ts';
import { silentLog } from '../../src/telemetry/log.ts';

const ID = 'iaaaaaaaaaaaaaaaaaaaa';
type Wake = (id: string, knock: Knock) => Promise<TrafficTarget | undefined> | undefined;

function target(): TrafficTarget {
  const answering = { handle: (_req: unknown, res: { end(text: string): void }) => res.end('awake') };
  return {
    sandboxID: ID,
    envd: answering,
    interpreter: answering,
    agent: () => Promise.reject(new Error('not asked')),
    track: () => () => {},
  };
}

async function ask(wake: Wake, headers: Record<string, string> = {}): Promise<{ status: number; body: string }> {
  const traffic = createTrafficServer({
    lookup: () => undefined,
    wake,
    findBySignature: () => undefined,
    log: silentLog,
  });
  await new Promise<void>((resolve) => traffic.server.listen(0, '127.0.0.1', resolve));
  const { port } = traffic.server.address() as AddressInfo;
  try {
    return await new Promise((resolve, reject) => {
      const asked = request(
        { port, headers: { 'x-coppice-sandbox': ID, 'x-coppice-port': '49983', ...headers } },
        (response) => {
          let body = '';
          response.setEncoding('utf8');
          response.on('data', (text: string) => {
            body += text;
          });
          response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
        },
      );
      asked.once('error', reject);
      asked.end();
    });
  } finally {
    await traffic.close();
  }
}

test('a request is held until its sandbox runs, then answered by it', async () => {
  const knocks: Knock[] = [];
  const gate = Promise.withResolvers<TrafficTarget>();
  const asking = ask(
    (_id, knock) => {
      knocks.push(knock);
      setImmediate(() => gate.resolve(target()));
      return gate.promise;
    },
    { 'x-access-token': 'secret' },
  );
  assert.deepEqual(await asking, { status: 200, body: 'awake' });
  assert.deepEqual(knocks, [{ port: 49_983, accessToken: 'secret' }]);
});

test('where there is nothing to wait for, the sandbox is not found', async () => {
  assert.equal((await ask(() => undefined)).status, 502);
  assert.equal((await ask(async () => undefined)).status, 502, 'it was killed meanwhile');
});

test('one that cannot be resumed answers 503, and says so', async () => {
  const { status, body } = await ask(() => Promise.reject(new Error('no room')));
  assert.equal(status, 503);
  assert.match(JSON.parse(body).message, /could not be resumed/);
});
