/** Whether this host can carry the nftables fabric: each check tried for real, in a namespace thrown away at once. */
import { open } from 'node:fs/promises';
import { CoppiceError } from '../../contract/errors.ts';
import type { Commands } from './commands.ts';
import { hostCommands } from './commands.ts';
import { fabricConfig, vethAddresses } from './config.ts';
import { hasConntrack, NO_CONNTRACK_NOTICE } from './conntrack.ts';
import { hostRuleset } from './host-rules.ts';
import { namespaceRuleset } from './ruleset.ts';
import { tryRun } from './run.ts';

export interface NetworkCheck {
  /** e.g. `nft`, `/dev/net/tun` */
  readonly name: string;
  readonly ok: boolean;
  /** What was found. */
  readonly detail: string;
  /** What to do, where not ok. */
  readonly fix?: string;
}

export interface NetworkProbe {
  /** True when createNftablesFabric can work here; false: use createNoNetwork(reason). */
  readonly available: boolean;
  /** First failed check, as a clause; empty when available. */
  readonly reason: string;
  readonly checks: readonly NetworkCheck[];
  /** What works, but could be better, with its fix. */
  readonly notices: readonly string[];
}

const TOOLS = [
  { name: 'nft', args: ['--version'], packageName: 'nftables' },
  { name: 'ip', args: ['-V'], packageName: 'iproute2' },
  { name: 'nsenter', args: ['--version'], packageName: 'util-linux' },
  { name: 'sysctl', args: ['--version'], packageName: 'procps' },
] as const;

/** Leaves nothing behind. */
export async function probeNftables(signal?: AbortSignal): Promise<NetworkProbe> {
  const checks: NetworkCheck[] = [
    {
      name: 'root',
      ok: process.geteuid?.() === 0,
      detail: `effective uid ${process.geteuid?.() ?? 'unknown'}`,
      fix: 'run the node as root',
    },
    await checkTun(),
    ...(await Promise.all(TOOLS.map((tool) => checkTool(tool, signal)))),
  ];
  if (checks.every((check) => check.ok)) {
    checks.push(
      await attempt('network namespaces', ['unshare', '--net', 'true'], undefined, signal),
      await attempt(
        'tap devices',
        ['unshare', '--net', 'ip', 'tuntap', 'add', 'dev', 'cp1', 'mode', 'tap'],
        undefined,
        signal,
      ),
      await attempt(
        'veth devices',
        ['unshare', '--net', 'ip', 'link', 'add', 'name', 'cp1', 'type', 'veth', 'peer', 'name', 'eth0'],
        undefined,
        signal,
      ),
      await attempt('nftables features', ['unshare', '--net', 'nft', '-f', '-'], sampleRuleset(), signal),
    );
  }
  const failed = checks.find((check) => !check.ok);
  const notices: string[] = [];
  if (!failed) {
    if (!(await hasConntrack())) notices.push(NO_CONNTRACK_NOTICE);
    notices.push(...(await foreignForwardDrops('cpv-*', hostCommands())));
  }
  return {
    available: !failed,
    reason: failed ? `${failed.name}: ${failed.detail}${failed.fix ? `; ${failed.fix}` : ''}` : '',
    checks: checks.map(({ fix, ...check }) => (check.ok || fix === undefined ? check : { ...check, fix })),
    notices,
  };
}

/**
 * Other programs' tables that drop what the host forwards (Docker's, a firewall's) hold for sandboxes too, and are not
 * ours to change. One notice each. Rules of the old iptables-legacy are not seen.
 */
export async function foreignForwardDrops(veth: string, host: Commands): Promise<string[]> {
  const objects = (await host.nftList(['list', 'chains'])) ?? [];
  return objects.flatMap((object) => {
    const chain = object.chain as
      | { family?: string; table?: string; name?: string; hook?: string; policy?: string }
      | undefined;
    if (chain?.hook !== 'forward' || chain.policy !== 'drop' || chain.table?.startsWith('coppice_')) return [];
    if (chain.family !== 'ip' && chain.family !== 'inet') return [];
    const where = `${chain.family} ${chain.table} ${chain.name}`;
    const names = veth.endsWith('*') ? `${veth.slice(0, -1)}*` : veth;
    return [
      `network: the host's own rules (${where}) drop what is forwarded, sandboxes' internet included. Fix: nft insert rule ${where} oifname "${names}" ct state established,related accept; nft insert rule ${where} iifname "${names}" accept`,
    ];
  });
}

async function checkTun(): Promise<NetworkCheck> {
  const name = '/dev/net/tun';
  try {
    await (await open(name, 'r+')).close();
    return { name, ok: true, detail: 'opens' };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'error';
    const fix =
      code === 'ENOENT' || code === 'ENODEV'
        ? 'modprobe tun (in a container: pass --device /dev/net/tun)'
        : 'run as root, with the device allowed';
    return { name, ok: false, detail: code, fix };
  }
}

async function checkTool(tool: (typeof TOOLS)[number], signal?: AbortSignal): Promise<NetworkCheck> {
  const fix = `apt-get install ${tool.packageName}`;
  try {
    const { code, stdout, stderr } = await tryRun([tool.name, ...tool.args], { signal });
    return { name: tool.name, ok: code === 0, detail: (stdout || stderr).trim().split('\n')[0] ?? '', fix };
  } catch (error) {
    if (!(error instanceof CoppiceError) || error.code !== 'host_unfit') throw error;
    return { name: tool.name, ok: false, detail: 'not installed', fix };
  }
}

async function attempt(
  name: string,
  command: readonly string[],
  input: string | undefined,
  signal?: AbortSignal,
): Promise<NetworkCheck> {
  const { code, stderr } = await tryRun(command, {
    ...(input === undefined ? {} : { input }),
    ...(signal ? { signal } : {}),
  });
  const complaint = stderr.trim().split('\n')[0] ?? '';
  return {
    name,
    ok: code === 0,
    detail: code === 0 ? 'work' : complaint || `exit code ${code}`,
    fix: 'the kernel or container does not allow it: CAP_SYS_ADMIN, CAP_NET_ADMIN and a kernel with nf_tables are needed',
  };
}

/** Everything the fabric would load, so that a kernel without one of the features says so here. */
function sampleRuleset(): string {
  return (
    namespaceRuleset([{ port: 'cp1', address: '10.0.1.1', mark: 1 }]) +
    '\n' +
    hostRuleset(fabricConfig('probe'), vethAddresses(10 * 2 ** 24), true)
  );
}
