/** Metrics, logs and webhooks through the whole service and its command line, over the death of the node. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'node:test';
import { Sandbox } from 'e2b';
import type { WireEvent } from '../../src/contract/e2b/activity-responses.ts';
import { coppice, startService } from '../helpers/service.ts';
import { until } from '../helpers/until.ts';

const TEMPLATE = 'base-jail';
const service = await startService({ COPPICE_POOL: '1', COPPICE_POOL_MOST: '2', COPPICE_WEBHOOK_ALLOW: '127.0.0.1' }, [
  TEMPLATE,
]);
test.after(async () => assert.deepEqual((await service.stop()).details, []));
const env = {
  COPPICE_HOME: service.home.folder,
  E2B_API_URL: service.url,
  E2B_SANDBOX_URL: service.url,
  E2B_API_KEY: service.apiKey,
};
const json = async (...args: string[]) => JSON.parse((await coppice([...args, '--json'], env)).stdout);

test('the command line: metrics, and a log that is followed to the end', async () => {
  const sandbox = await Sandbox.create(TEMPLATE, service.sdk);
  const following = coppice(['sandbox', 'logs', sandbox.sandboxId, '--follow', '--level', 'debug'], env);
  await sandbox.commands.run('echo from the sandbox');
  await until('a point', async () => (await sandbox.getMetrics()).length > 0, 30_000);
  const points = (await json('sandbox', 'metrics', sandbox.sandboxId)) as { cpuCount: number }[];
  assert.ok(points.length > 0 && points[0]!.cpuCount === 1);
  const table = (await coppice(['sandbox', 'metrics', sandbox.sandboxId, '--last', '1'], env)).stdout;
  assert.match(table, /^TIME +CPU +MEMORY +CACHE +DISK\n\S+ +[\d.]+ % of 1 +.*MiB/);
  await sandbox.kill();
  const { stdout } = await following;
  for (const said of ['created', 'process started', 'from the sandbox', 'process ended', 'killed: killed by its owner'])
    assert.match(stdout, new RegExp(said));
  await assert.rejects(coppice(['sandbox', 'logs', 'inothing'], env), /404/);
});

test('a webhook hears of everything, also when the node is killed in between', async (t) => {
  const told: WireEvent[] = [];
  let secret = '';
  const server = createServer((req, res) => {
    const chunks: Buffer[] = [];
    req.on('data', (chunk: Buffer) => chunks.push(chunk));
    req.on('end', () => {
      const body = Buffer.concat(chunks);
      const expected = `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`;
      if (req.headers['coppice-signature'] === expected) told.push(JSON.parse(body.toString()));
      res.end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const made = (await json('webhook', 'create', url, '--name', 'mine')) as { id: string; signatureSecret: string };
  secret = made.signatureSecret;
  assert.equal(((await json('webhook', 'list')) as { id: string }[])[0]!.id, made.id);
  const heard = (sandboxID: string): string[] => [
    ...new Set(told.filter((one) => one.sandbox_id === sandboxID).map((one) => one.event_label)),
  ];

  const sandbox = await Sandbox.create(TEMPLATE, service.sdk);
  process.kill(service.nodePid(), 'SIGKILL');
  await until('its create is told', () => heard(sandbox.sandboxId).includes('create'), 60_000);
  await until(
    'it is there again',
    async () => {
      const pid = service.nodePid();
      return pid > 0 && (await sandbox.isRunning().catch(() => false));
    },
    60_000,
  );
  await sandbox.kill();
  await until('and its end', () => heard(sandbox.sandboxId).includes('kill'), 60_000);
  assert.deepEqual(heard(sandbox.sandboxId), ['create', 'kill']);

  const [event] = told;
  const before = told.length;
  await json('webhook', 'replay', made.id, event!.id);
  await until('again', () => told.length === before + 1);
  assert.equal(told.at(-1)!.id, event!.id);
  const deliveries = (await json('webhook', 'deliveries', made.id)) as { state: string }[];
  assert.ok(deliveries.length >= 3);
  await assert.rejects(coppice(['webhook', 'create', 'http://169.254.169.254/'], env), /not a public address/);
  await assert.rejects(coppice(['webhook', 'replay', made.id, crypto.randomUUID()], env), /404/);
  assert.deepEqual(await json('webhook', 'delete', made.id), [{ id: made.id, deleted: true }]);
  assert.deepEqual(await json('webhook', 'list'), []);
});
