/** Flows and policy: what a change of policy, a restart or the end of a sandbox does to connections that stand. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import test, { after, before, describe } from 'node:test';
import type { Attachment, NetworkFabric } from '../../src/network/fabric.ts';
import { createNftablesFabric } from '../../src/network/nftables/driver.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import { KINDS, networkTest, type Puppet, type SeenPacket, until, WORLD_ADDRESS } from '../helpers/netns.ts';

networkTest(import.meta.filename, (net) => {
  for (const kind of KINDS)
    describe(kind, () => {
      const make = () => createNftablesFabric({ instance: net.instance, stateFolder: net.stateFolder, log: silentLog });
      const fabric: NetworkFabric = make();
      let world: Puppet;
      let at: Attachment;
      let guest: Puppet;
      const timeout = 0.7;
      const connect = (name: string, sport?: number) =>
        guest.ask({ op: 'connect', name, host: WORLD_ADDRESS, port: 80, timeout, ...(sport ? { sport } : {}) });
      const exchange = (name: string, data: string) => guest.ask({ op: 'exchange', name, data, timeout });

      before(async () => {
        await fabric.start();
        world = await net.world();
        at = await fabric.attach('one', { kind });
        guest = await net.guest(at);
        await fabric.setPolicy('one', { allowInternet: true });
      });

      after(async () => {
        await guest?.end();
        await world?.end();
        await fabric.stop();
      });

      test('a policy that denies cuts what stands, in both directions, at once', async () => {
        assert.deepEqual(await connect('a'), { ok: true });
        assert.deepEqual(await exchange('a', 'before'), { data: 'before' });
        assert.deepEqual(await connect('idle'), { ok: true });
        await fabric.setPolicy('one', { allowInternet: false });

        await world.ask({ op: 'push', data: 'late news' });
        assert.deepEqual(await guest.ask({ op: 'receive', name: 'idle', timeout }), { error: 'timeout' });
        await world.ask({ op: 'forget' });
        assert.deepEqual(await exchange('a', 'after'), { error: 'ECONNRESET' });
        const { packets } = (await world.ask({ op: 'seen' })) as { packets: SeenPacket[] };
        // The world goes on retrying its push, unanswered; nothing of the sandbox gets out.
        assert.deepEqual(packets, []);
      });

      test('allowing again does not bring cut streams back, and new ones work', async () => {
        await fabric.setPolicy('one', { allowInternet: true });
        assert.deepEqual(await guest.ask({ op: 'receive', name: 'idle', timeout }), { error: 'timeout' });
        assert.deepEqual(await exchange('idle', 'x'), { error: 'ECONNRESET' });
        assert.deepEqual(await connect('b'), { ok: true });
        assert.deepEqual(await exchange('b', 'anew'), { data: 'anew' });
      });

      test('the same policy twice changes nothing for what stands', async () => {
        await fabric.setPolicy('one', { allowInternet: true });
        assert.deepEqual(await exchange('b', 'still'), { data: 'still' });
      });

      test('start, again or in a new process, leaves what stands alone', async () => {
        await fabric.start();
        assert.deepEqual(await exchange('b', 'after start'), { data: 'after start' });
        await make().start();
        assert.deepEqual(await exchange('b', 'after another start'), { data: 'after another start' });
        assert.deepEqual(await connect('c'), { ok: true });
      });

      test('nobody outside opens a flow to a sandbox', async () => {
        await guest.ask({ op: 'listen', name: 'l', port: 7000 });
        // From the host itself, which is as near as anybody gets.
        const [uplink] = JSON.parse(
          net.onHost('nsenter', `--net=${net.fabricNamespace}`, 'ip', '-j', '-4', 'addr', 'show', 'dev', 'up0'),
        ) as { addr_info: { local: string }[] }[];
        net.onHost('ip', 'route', 'add', `${at.address}/32`, 'via', uplink!.addr_info[0]!.local);
        for (const host of [at.address, uplink!.addr_info[0]!.local]) {
          const dial = `import socket; socket.create_connection(("${host}", 7000), 0.7)`;
          assert.throws(() => net.onHost('python3', '-c', dial), /timed out/, host);
        }
      });

      test('a flow of an ended sandbox does not reach the next holder of its address', async () => {
        const fixed = 4444;
        assert.deepEqual(await connect('old', fixed), { ok: true });
        await fabric.detach('one');
        await guest.end();

        // The pool is far too large to wait for its turn: the next holder is made by hand, as the rotation would in the end.
        const file = `${net.stateFolder}/network.json`;
        const journal = JSON.parse(await readFile(file, 'utf8'));
        const third = Number(at.address.split('.')[2]);
        const fourth = Number(at.address.split('.')[3]);
        await writeFile(file, JSON.stringify({ ...journal, cursor: (third - 1) * 254 + fourth - 1 }));
        const next = make();
        await next.start();
        const holder = await next.attach('two', { kind });
        assert.equal(holder.address, at.address);
        guest = await net.guest(holder);
        await next.setPolicy('two', { allowInternet: true });

        const sniff = ['python3', '-c', SNIFF, holder.port];
        const listening = net.onHostLater('nsenter', `--net=${net.fabricNamespace}`, ...sniff);
        await until('the sniffer', async () => (listening.output().includes('ready') ? true : undefined));
        await world.ask({ op: 'push', data: 'meant for another' });
        assert.deepEqual(await connect('fresh'), { ok: true });
        await until('fresh traffic', async () => (listening.output().includes('port') ? true : undefined));
        await listening.end();
        assert.doesNotMatch(listening.output(), new RegExp(`port ${fixed}\\b`));
        await next.stop();
      });
    });
});

/** Prints the destination port of each TCP packet that the fabric sends into a port. */
const SNIFF = `
import socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind((sys.argv[1], 0))
print("ready", flush=True)
while True:
    frame, where = s.recvfrom(65536)
    if where[2] == 4 and frame[12:14] == b"\\x08\\x00" and frame[23] == 6:
        size = (frame[14] & 15) * 4
        print("port", struct.unpack("!H", frame[16 + size:18 + size])[0], flush=True)
`;
