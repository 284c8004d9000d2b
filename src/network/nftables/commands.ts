/** nft and ip, in the host's namespace or inside the fabric's. One call is one transaction or one batch. */
import type { FabricConfig } from './config.ts';
import { run, tryRun } from './run.ts';

export interface Link {
  readonly name: string;
  readonly mtu: number;
}

export interface Commands {
  /** One nft transaction: all of it or nothing. */
  nft(script: string, signal?: AbortSignal): Promise<void>;
  /** `nft -j …`: the `nftables` array; undefined when the object does not exist. */
  nftList(args: readonly string[]): Promise<readonly Record<string, unknown>[] | undefined>;
  /** One `ip -batch`: stops at the first line that fails. */
  ip(lines: readonly string[], signal?: AbortSignal): Promise<void>;
  /** The same, going on past lines that fail; true when none did. */
  ipForce(lines: readonly string[]): Promise<boolean>;
  /** A script for `sh -e`, on its stdin. */
  shell(script: string, signal?: AbortSignal): Promise<void>;
  /** `ip -j …`, parsed. */
  ipList(args: readonly string[]): Promise<readonly Record<string, unknown>[]>;
  links(): Promise<readonly Link[]>;
  sysctl(settings: readonly string[], signal?: AbortSignal): Promise<void>;
}

export function hostCommands(): Commands {
  return createCommands([]);
}

/** nsenter rather than `ip netns exec`: the latter also remounts /sys in a mount namespace of its own at every call. */
export function namespaceCommands(config: FabricConfig): Commands {
  return createCommands(['nsenter', `--net=${config.namespacePath}`]);
}

function createCommands(prefix: readonly string[]): Commands {
  const commands: Commands = {
    async nft(script, signal) {
      await run([...prefix, 'nft', '-f', '-'], { input: script, signal });
    },
    async nftList(args) {
      const result = await tryRun([...prefix, 'nft', '-j', ...args]);
      if (result.code !== 0 && result.stderr.includes('No such file or directory')) return undefined;
      if (result.code !== 0) throw new Error(`nft ${args.join(' ')}: ${result.stderr.trim().slice(0, 500)}`);
      return (JSON.parse(result.stdout || '{"nftables":[]}') as { nftables: Record<string, unknown>[] }).nftables;
    },
    async ip(lines, signal) {
      if (lines.length > 0) await run([...prefix, 'ip', '-batch', '-'], { input: `${lines.join('\n')}\n`, signal });
    },
    async ipForce(lines) {
      if (lines.length === 0) return true;
      const input = `${lines.join('\n')}\n`;
      return (await tryRun([...prefix, 'ip', '-force', '-batch', '-'], { input, timeoutMs: 120_000 })).code === 0;
    },
    async shell(script, signal) {
      await run([...prefix, 'sh', '-e'], { input: script, signal });
    },
    async ipList(args) {
      const text = await run([...prefix, 'ip', '-j', ...args]);
      return text.trim() === '' ? [] : (JSON.parse(text) as Record<string, unknown>[]);
    },
    async links() {
      const list = await commands.ipList(['link', 'show']);
      return list.map((link) => ({ name: String(link.ifname), mtu: Number(link.mtu) }));
    },
    async sysctl(settings, signal) {
      await run([...prefix, 'sysctl', '-q', '-w', ...settings], { signal });
    },
  };
  return commands;
}
