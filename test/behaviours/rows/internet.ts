import assert from 'node:assert/strict';
import type { Sandbox } from 'e2b';
import { eventually, say, start } from '../support/asks.ts';
import type { Behaviour } from '../support/behaviour.ts';

/** HTTP status as curl saw it, 000 when it got none. */
const status = (sandbox: Sandbox, address: string): Promise<string> =>
  say(sandbox, `curl -s -o /dev/null -m 5 -w '%{http_code}' 'http://${address}:8080/' || true`);

/** Several at once, since each that is out of reach takes its time. */
async function statuses(sandbox: Sandbox, addresses: readonly string[]): Promise<Record<string, string>> {
  const one = (address: string): string =>
    `(echo "${address} $(curl -s -o /dev/null -m 5 -w '%{http_code}' 'http://${address}:8080/')") &`;
  const lines = (await say(sandbox, `${addresses.map(one).join(' ')} wait`)).split('\n');
  return Object.fromEntries(lines.map((line) => line.split(' ') as [string, string]));
}

const PRIVATE = ['127.0.0.1', '169.254.169.254', '169.254.1.1', '10.0.0.1', '192.168.0.1', '172.16.0.1'];

export default [
  {
    name: 'the internet is there by default, and the host, private and metadata addresses never',
    on: 'every kind',
    run: async ({ sandbox: create, world }) => {
      const sandbox = await create();
      await eventually(
        'the world serves',
        () => status(sandbox, world.address),
        (code) => code === '200',
      );
      const others = [world.host, ...PRIVATE];
      assert.deepEqual(await statuses(sandbox, others), Object.fromEntries(others.map((address) => [address, '000'])));
    },
  },
  {
    name: 'allow_internet_access false is kept, from the first moment',
    on: 'every kind',
    run: async ({ sandbox: create, world }) => {
      const [cut, open] = await Promise.all([create({ allowInternetAccess: false }), create()]);
      assert.equal(await status(cut, world.address), '000');
      assert.equal((await cut.getInfo()).allowInternetAccess, false);
      // Its sibling proves that there was something to reach.
      await eventually(
        'the world serves',
        () => status(open, world.address),
        (code) => code === '200',
      );
    },
  },
  {
    name: 'its network is changed while it runs: what stands is cut, and a pause keeps what was wished last',
    on: 'every kind',
    run: async ({ sandbox: create, service, world }) => {
      const sandbox = await create();
      const reaches = (wanted: '200' | '000') =>
        eventually(
          `the world answers ${wanted}`,
          () => status(sandbox, world.address),
          (code) => code === wanted,
        );
      const put = async (body: object): Promise<number> => {
        const headers = { 'x-api-key': service.apiKey, 'content-type': 'application/json' };
        const url = `${service.url}/sandboxes/${sandbox.sandboxId}/network`;
        return (await fetch(url, { method: 'PUT', headers, body: JSON.stringify(body) })).status;
      };
      await reaches('200');
      assert.equal(await put({ allow_internet_access: false }), 204);
      assert.equal(await status(sandbox, world.address), '000');
      assert.equal((await sandbox.getInfo()).allowInternetAccess, false);
      assert.equal(await put({ allowOut: [world.address] }), 400);
      await sandbox.pause();
      await sandbox.connect();
      assert.equal(await status(sandbox, world.address), '000');
      assert.equal(await put({}), 204);
      await reaches('200');
    },
  },
  {
    name: 'one sandbox cannot reach another',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const [one, other] = await Promise.all([create(), create()]);
      const address = await say(one, "ip -4 -o addr show dev eth0 | awk '{print $4}' | cut -d/ -f1");
      assert.match(address, /^10\.\d+\.\d+\.\d+$/);
      await start(one, 'exec python3 -m http.server 8080');
      await eventually(
        'it serves itself',
        () => status(one, address),
        (code) => code === '200',
      );
      assert.equal(await status(other, address), '000');
    },
  },
  {
    name: 'an interface with one address, a route, a resolver, a loopback that answers pings of its user',
    on: 'every kind',
    run: async ({ sandbox: create }) => {
      const sandbox = await create();
      const links = JSON.parse(await say(sandbox, 'ip -j -4 addr')) as {
        ifname: string;
        addr_info: { local: string }[];
      }[];
      assert.deepEqual(links.map((link) => link.ifname).sort(), ['eth0', 'lo']);
      assert.equal(links.find((link) => link.ifname === 'eth0')?.addr_info.length, 1);
      assert.match(await say(sandbox, 'ip route show default'), /^default via [\d.]+ dev eth0/);
      assert.match(await say(sandbox, 'cat /etc/resolv.conf'), /^nameserver [\d.]+$/m);
      assert.equal(await say(sandbox, 'ip -6 addr show dev eth0'), '', 'IPv4 only');
      await say(sandbox, 'ping -c 1 -W 10 127.0.0.1');
    },
  },
] satisfies Behaviour[];
