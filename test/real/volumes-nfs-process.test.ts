/** The process that serves volumes: what it is given and gives back, that it is there again when it is killed, and that it ends. */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { silentLog } from '../../src/telemetry/log.ts';
import { createNfsProcess, type NfsProcess } from '../../src/volumes/nfs/process.ts';
import { networkTest, until } from '../helpers/netns.ts';
import { NfsClient, opaque, ROOT } from '../helpers/nfs-client.ts';
import { openVolumeRoot } from '../helpers/volume-root.ts';

const VOLUME = '11111111-2222-4333-8444-555555555555';
const PORT = 2049;

networkTest(import.meta.filename, (net) => {
  const folder = mkdtempSync(join(tmpdir(), 'coppice-nfs-'));
  const asked: string[] = [];
  let root: number;
  let held = 0;
  let given = true;
  let server: NfsProcess;
  let localPort = 800;

  const open = () => NfsClient.open(PORT, localPort++);
  const pids = (): number[] =>
    net
      .onHost('sh', '-c', 'pgrep -f "[n]fs/program.ts 2049" || true')
      .split('\n')
      .filter((line) => line !== '')
      .map(Number)
      .filter((pid) => net.onHost('sh', '-c', `readlink /proc/${pid}/ns/net || true`) === ours);
  const ours = net.onHost('readlink', '/proc/self/ns/net');

  before(async () => {
    root = await openVolumeRoot(folder, 16);
    server = createNfsProcess({
      port: PORT,
      exportsOf: async (address) => {
        asked.push(address);
        if (!given) return undefined;
        held++;
        return { exports: [{ volumeID: VOLUME, fd: root }], release: () => void held-- };
      },
      log: silentLog,
    });
  });

  after(async () => {
    await server?.stop();
    if (root !== undefined) closeSync(root);
    rmSync(folder, { recursive: true, force: true });
  });

  test('it is one, however often it is started, and serves what it is given, by address, until the client goes', async () => {
    await Promise.all([server.start('/proc/self/ns/net'), server.start('/proc/self/ns/net')]);
    assert.equal(pids().length, 1);
    const client = await open();
    assert.ok(await client.mount(VOLUME));
    assert.deepEqual([asked, held], [['127.0.0.1'], 1]);
    client.close();
    await until('it is let go', async () => held === 0 || undefined);
    given = false;
    const refused = await open();
    assert.equal(await refused.next(), undefined);
    given = true;
    const unprivileged = await NfsClient.open(PORT);
    assert.equal(await unprivileged.next(), undefined);
    assert.equal(asked.length, 2);
  });

  test('killed, it gives back what it held and is there again, and what it said of files holds', async () => {
    const client = await open();
    const handle = (await client.mount(VOLUME))!;
    assert.equal(held, 1);
    const [pid] = pids();
    process.kill(pid!, 'SIGKILL');
    await until('it is let go', async () => held === 0 || undefined);
    const again = await until('another serves', async () => open().catch(() => undefined), 20_000);
    assert.equal((await again.nfs(1, ROOT, opaque(handle))).status, 0);
    assert.notDeepEqual(pids(), [pid]);
    again.close();
  });

  test('stopped, it is gone and stays so', async () => {
    await server.stop();
    assert.deepEqual(pids(), []);
    assert.equal(held, 0);
    await assert.rejects(server.start('/proc/self/ns/net'), /stopping/);
  });
});
