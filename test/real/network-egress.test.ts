/** What leaves a port, and what does not: the compiled rules against real packets and against the reference evaluator. */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';
import test, { after, before, describe } from 'node:test';
import type { Attachment, NetworkFabric } from '../../src/network/fabric.ts';
import { formatAddress } from '../../src/network/ipv4.ts';
import { FLOW_LIMIT } from '../../src/network/nftables/config.ts';
import { createNftablesFabric } from '../../src/network/nftables/driver.ts';
import { evaluate, HARD_DENIES } from '../../src/network/policy.ts';
import { silentLog } from '../../src/telemetry/log.ts';
import {
  HOST_ADDRESS,
  KINDS,
  networkTest,
  type Puppet,
  type SeenPacket,
  until,
  WORLD_ADDRESS,
} from '../helpers/netns.ts';

networkTest(import.meta.filename, (net) => {
  for (const kind of KINDS)
    describe(kind, () => {
      let fabric: NetworkFabric;
      let world: Puppet;
      let open: { at: Attachment; guest: Puppet };
      let shut: { at: Attachment; guest: Puppet };
      const timeout = 0.7;
      const connect = (guest: Puppet, host: string, port = 80) =>
        guest.ask({ op: 'connect', name: `${host}:${port}`, host, port, timeout });
      const seen = async () => (await world.ask({ op: 'seen' })).packets as SeenPacket[];

      const inside = (...command: string[]) => net.onHost('nsenter', `--net=${net.fabricNamespace}`, ...command);

      async function withoutReversePathFilter(act: () => Promise<void>): Promise<void> {
        const keys = ['all', open.at.port].map((name) => `net.ipv4.conf.${name}.rp_filter`);
        const set = (value: 0 | 1) => inside('sysctl', '-q', '-w', ...keys.map((key) => `${key}=${value}`));
        set(0);
        await act().finally(() => set(1));
      }

      /**
       * Sends `packets`, then waits until `count` of them have arrived, and then for two more, one after the other, that must
       * pass: when those have arrived, so has whatever came before. Returns what arrived of `packets`.
       */
      async function send(guest: Puppet, at: Attachment, packets: object[], count = 0): Promise<SeenPacket[]> {
        const barriers = [randomInt(20_000, 40_000), randomInt(40_000, 60_000)];
        const others = async () => (await seen()).filter((packet) => !barriers.includes(packet.dport!));
        await world.ask({ op: 'forget' });
        await guest.ask({ op: 'packets', packets });
        // Where they do not all arrive, the caller's comparison says which.
        if (count > 0)
          await until('all', async () => ((await others()).length >= count ? true : undefined)).catch(() => {});
        for (const dport of barriers) {
          const barrier = { source: at.address, destination: WORLD_ADDRESS, protocol: 'udp', sport: 9, dport };
          await guest.ask({ op: 'packets', packets: [barrier] });
          await until('the barrier', async () => (await seen()).find((packet) => packet.dport === dport));
        }
        return others();
      }

      before(async () => {
        fabric = createNftablesFabric({ instance: net.instance, stateFolder: net.stateFolder, log: silentLog });
        await fabric.start();
        world = await net.world();
        const attach = async (id: string) => {
          const at = await fabric.attach(id, { kind, uid: 65_534 });
          return { at, guest: await net.guest(at) };
        };
        open = await attach('open');
        shut = await attach('shut');
        await fabric.setPolicy('open', { allowInternet: true });
      });

      after(async () => {
        await Promise.all([open, shut].map((one) => one?.guest.end()));
        await world?.end();
        await fabric.stop();
      });

      test('an allowed sandbox reaches the internet by TCP and UDP', async () => {
        assert.deepEqual(await connect(open.guest, WORLD_ADDRESS), { ok: true });
        const exchange = { op: 'exchange', name: `${WORLD_ADDRESS}:80`, data: 'over tcp', timeout };
        assert.deepEqual(await open.guest.ask(exchange), { data: 'over tcp' });
        const datagram = { op: 'udp', host: WORLD_ADDRESS, port: 80, data: 'over udp', timeout };
        assert.deepEqual(await open.guest.ask(datagram), { data: 'over udp' });
        assert.deepEqual(await connect(open.guest, '8.8.8.8'), { ok: true });
      });

      test('the internet sees the host, never a sandbox address', async () => {
        const arrived = await send(open.guest, open.at, [
          { source: open.at.address, destination: '8.8.4.4', protocol: 'udp', sport: 7, dport: 53 },
        ]);
        // Connections of before may still be closing.
        assert.deepEqual([...new Set(arrived.map(({ source }) => source))], [HOST_ADDRESS]);
        assert.deepEqual(
          arrived
            .filter(({ protocol }) => protocol === 'udp')
            .map(({ source, destination }) => ({ source, destination })),
          [{ source: HOST_ADDRESS, destination: '8.8.4.4' }],
        );
      });

      test('without internet access every connection is refused at once, and nothing leaves', async () => {
        await world.ask({ op: 'forget' });
        assert.deepEqual(await connect(shut.guest, WORLD_ADDRESS), { error: 'ECONNREFUSED' });
        assert.deepEqual(await shut.guest.ask({ op: 'udp', host: WORLD_ADDRESS, port: 80, data: 'x', timeout }), {
          error: 'EHOSTUNREACH',
        });
        assert.deepEqual(await seen(), []);
      });

      test('private, link-local, metadata and other special addresses are refused under any policy', async () => {
        await world.ask({ op: 'forget' });
        for (const host of ['169.254.169.254', '10.0.0.1', '172.17.0.1', '192.168.1.1', '100.64.0.1', '198.18.0.1']) {
          const { error } = await connect(open.guest, host);
          assert.match(String(error), /^(ECONNREFUSED|timeout)$/, host);
        }
        assert.deepEqual(await seen(), []);
      });

      test('the host is not reachable on any of its addresses', async () => {
        const server = createServer((socket) => socket.end('host'));
        await new Promise<void>((resolve) => server.listen(0, '0.0.0.0', resolve));
        const { port } = server.address() as { port: number };
        const addressesOf = (json: string) =>
          (JSON.parse(json) as { addr_info: { local: string }[] }[]).flatMap((link) =>
            link.addr_info.map(({ local }) => local),
          );
        const host = addressesOf(net.onHost('ip', '-j', '-4', 'addr', 'show'));
        const [uplink] = addressesOf(inside('ip', '-j', '-4', 'addr', 'show', 'dev', 'up0'));
        const veth = host.find((address) => address.startsWith('10.'))!;
        assert.deepEqual(host.sort(), [veth, '127.0.0.1', HOST_ADDRESS].sort());
        // Refused by the namespace on the way; dropped by the host; dropped by the namespace, which answers nobody.
        assert.deepEqual(await connect(open.guest, veth, port), { error: 'ECONNREFUSED' });
        assert.deepEqual(await connect(open.guest, HOST_ADDRESS, port), { error: 'timeout' });
        assert.deepEqual(await connect(open.guest, uplink!, port), { error: 'timeout' });
        assert.deepEqual(await connect(open.guest, '169.254.1.1', port), { error: 'timeout' });
        const ping = await open.guest.ask({ op: 'ping', host: '169.254.1.1', timeout });
        assert.deepEqual(ping, { error: 'timeout' });
        assert.deepEqual(
          await open.guest.ask({ op: 'ping', host: '8.8.8.8', timeout }),
          { ok: true },
          'ping works elsewhere',
        );
        server.close();
      });

      test("the host's own published ports are not a way in", async () => {
        // As a container engine publishes a port: DNAT on the host's address, to somewhere public here so that only the
        // order of the checks can stop it.
        net.onHost('nft', 'add table ip other');
        net.onHost('nft', 'add chain ip other pre { type nat hook prerouting priority dstnat; }');
        net.onHost('nft', `add rule ip other pre ip daddr ${HOST_ADDRESS} tcp dport 8080 dnat to ${WORLD_ADDRESS}:80`);
        assert.deepEqual(await connect(open.guest, HOST_ADDRESS, 8080), { error: 'timeout' });
        net.onHost('nft', 'delete table ip other');
      });

      test('another sandbox is not reachable', async () => {
        await shut.guest.ask({ op: 'listen', name: 'l', port: 7000 });
        assert.deepEqual(await connect(open.guest, shut.at.address, 7000), { error: 'ECONNREFUSED' });
        await open.guest.ask({ op: 'listen', name: 'l', port: 7000 });
        assert.deepEqual(await connect(shut.guest, open.at.address, 7000), { error: 'ECONNREFUSED' });
      });

      test('a spoofed source never leaves', async () => {
        const spoofed = [shut.at.address, '203.0.113.77', '8.8.8.8', '169.254.1.1', HOST_ADDRESS].map((source) => ({
          source,
          destination: WORLD_ADDRESS,
          protocol: 'udp',
          sport: 5,
          dport: 666,
        }));
        assert.deepEqual(await send(open.guest, open.at, spoofed), []);
        // The rule and the kernel's reverse path filter each hold alone.
        await withoutReversePathFilter(async () => assert.deepEqual(await send(open.guest, open.at, spoofed), []));
      });

      test('no source port opens a way past the policy', async () => {
        const tricks = [80, 49_983, 49_999, 53, 22].flatMap((sport) =>
          ['syn', 'ack', 'synack', 'rst'].map((flags) => ({ protocol: 'tcp', flags, sport, dport: 4242 })),
        );
        await world.ask({ op: 'forget' });
        const from = (at: Attachment, destination: string) =>
          tricks.map((trick) => ({ ...trick, source: at.address, destination }));
        await shut.guest.ask({ op: 'packets', packets: from(shut.at, WORLD_ADDRESS) });
        const denied = [...from(open.at, '10.1.2.3'), ...from(open.at, '169.254.169.254')];
        const notOpening = from(open.at, '8.8.8.8').filter((packet) => packet.flags !== 'syn');
        assert.deepEqual(await send(open.guest, open.at, [...denied, ...notOpening]), []);
      });

      test('IPv6 goes nowhere', async () => {
        await world.ask({ op: 'forget' });
        const header = `6000000000083aff${'fe80'.padEnd(32, '0')}${'20010db8'.padEnd(32, '0')}8000000000000000`;
        await open.guest.ask({ op: 'frame', hex: `ffffffffffff02000000000186dd${header}` });
        const arrived = await send(open.guest, open.at, []);
        assert.deepEqual(
          arrived.filter((packet) => packet.family === 6),
          [],
        );
        assert.equal(inside('ip', '-6', 'addr', 'show'), '');
      });

      test('ARP answers for the gateway alone, and learns of nobody but the guest', async () => {
        const mac = '020000000001';
        const arp = (sender: string, target: string) =>
          `ffffffffffff${mac}08060001080006040001${mac}${hex(sender)}000000000000${hex(target)}`;
        const learned = async () => {
          await open.guest.ask({ op: 'frame', hex: arp('10.99.99.99', '169.254.1.1') });
          await open.guest.ask({ op: 'frame', hex: arp(shut.at.address, '169.254.1.1') });
          await send(open.guest, open.at, []);
          const list = inside('ip', '-j', 'neigh', 'show', 'dev', open.at.port);
          return (JSON.parse(list) as { dst: string }[]).map(({ dst }) => dst);
        };
        const onlyItself = (neighbours: string[]) => neighbours.every((dst) => dst === open.at.address);
        assert.ok(onlyItself(await learned()));
        await withoutReversePathFilter(async () => assert.ok(onlyItself(await learned()), (await learned()).join()));
      });

      test('the table of the host holds by itself', async () => {
        const uplinkSays = (...targets: string[]) => {
          const code = `import socket, sys
for to in sys.argv[1:]: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (to, 777))`;
          inside('python3', '-c', code, ...targets);
        };
        inside('nft', 'flush', 'ruleset');
        try {
          await world.ask({ op: 'forget' });
          uplinkSays('10.1.2.3', '169.254.169.254', '192.168.1.1', '100.64.0.1', '8.8.4.4');
          await until('the one that may', async () => (await seen()).find((packet) => packet.dport === 777));
          assert.deepEqual(
            (await seen()).map(({ destination }) => destination),
            ['8.8.4.4'],
          );
        } finally {
          await fabric.start();
        }
      });

      test('for random packets the rules and the reference evaluator agree', async () => {
        const edges = HARD_DENIES.flatMap((range) => {
          const [base, prefix] = range.split('/') as [string, string];
          const first = base.split('.').reduce((value, octet) => value * 256 + Number(octet), 0);
          const size = 2 ** (32 - Number(prefix));
          return [first - 1, first, first + size - 1, first + size].filter((n) => n > 0 && n < 0xffffffff);
        });
        const random = Array.from({ length: 400 }, () => randomInt(1, 0xffffffff));
        const place = { address: open.at.address, hostAddresses: [HOST_ADDRESS] };
        const packets = [...new Set([...edges, ...random])]
          .map(formatAddress)
          // The guest's own kernel keeps these to itself, or will not send them.
          .filter((destination) => !/^(0|127)\./.test(destination) && destination !== '255.255.255.255')
          .map((destination, index) => ({
            source: index % 9 === 0 ? formatAddress(randomInt(1, 0xffffffff)) : open.at.address,
            destination,
            protocol: 'udp' as const,
            sport: 1000 + index,
            dport: 33_000,
          }))
          .filter(
            ({ destination, source }) =>
              destination !== WORLD_ADDRESS && !destination.startsWith('203.0.113.') && !/^(0|127)\./.test(source),
          );
        const expected = packets.filter((packet) => {
          const seenByRules = { ...packet, family: 4, direction: 'outbound', flow: 'new' } as const;
          return evaluate({ allowInternet: true }, seenByRules, place).allowed;
        });
        assert.ok(expected.length > 100 && expected.length < packets.length - 20);
        const arrived = await send(open.guest, open.at, packets, expected.length);
        const reached = [...new Set(arrived.map(({ destination }) => destination))];
        assert.deepEqual(reached.sort(), expected.map(({ destination }) => destination).sort());
      });

      test('one sandbox cannot fill connection tracking, nor keep another from it', async () => {
        const tracked = () => Number(inside('cat', '/proc/sys/net/netfilter/nf_conntrack_count'));
        const flows = Array.from({ length: FLOW_LIMIT + 900 }, (_, index) => ({
          source: open.at.address,
          destination: '8.8.4.4',
          protocol: 'udp',
          sport: 1024 + index,
          dport: 7777,
        }));
        for (let from = 0; from < flows.length; from += 500)
          await open.guest.ask({ op: 'inject', packets: flows.slice(from, from + 500) });
        assert.ok(tracked() >= FLOW_LIMIT, `${tracked()} flows`);
        await fabric.setPolicy('shut', { allowInternet: true });
        await send(shut.guest, shut.at, []);
        assert.deepEqual(await connect(shut.guest, '8.8.8.8'), { ok: true });
        assert.ok(tracked() < FLOW_LIMIT + 600, `${tracked()} flows`);
      });
    });
});

function hex(address: string): string {
  return address
    .split('.')
    .map((octet) => Number(octet).toString(16).padStart(2, '0'))
    .join('');
}
