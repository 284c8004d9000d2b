/**
 * Row: where the time of a command goes. The same command by ever fewer layers, one after the other in each round, so that
 * the differences mean something: official package, plain HTTP through the edge, past the edge, the agent's raw channel,
 * and each of the last two without a shell.
 */
import { Agent } from 'node:http';
import { Sandbox } from 'e2b';
import type { AgentClient } from '../../src/channel/agent.ts';
import type { Home } from '../../src/store/home.ts';
import { type CloneOptions, withClones } from './clones.ts';
import { WARM_UP } from './creates.ts';
import { type Command, ECHO, type ExecTarget, TRUE, timeExec } from './exec.ts';
import type { RigService } from './service.ts';
import { round, type Summary, summarize } from './statistics.ts';

export interface ServiceLayers {
  readonly sdk_echo_ms: Summary;
  readonly edge_echo_ms: Summary;
  readonly node_echo_ms: Summary;
  readonly node_true_ms: Summary;
  /** By plain HTTP in a fresh sandbox each: the first command of its life, and the second. */
  readonly fresh_first_echo_ms: Summary;
  readonly fresh_second_echo_ms: Summary;
}

export interface AgentLayers {
  readonly agent_echo_ms: Summary;
  readonly agent_true_ms: Summary;
  readonly agent_ping_ms: Summary;
}

export interface Layers extends ServiceLayers, AgentLayers {
  readonly clock: string;
  /** Differences of medians, ms: what each layer adds to a command in a sandbox that has run some already. */
  readonly of_one_echo_ms: Readonly<Record<'sdk' | 'edge' | 'node' | 'shell' | 'spawn_and_reap' | 'channel', number>>;
}

interface Options {
  readonly home: Home;
  readonly template: string;
  readonly n: number;
  readonly hot: number;
  readonly signal: AbortSignal;
}

const TIMEOUT_SECONDS = 300;

export async function measureServiceLayers(service: RigService, options: Options): Promise<ServiceLayers> {
  const { home, template, n, hot, signal } = options;
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  try {
    const rows = { sdk: [] as number[], edge: [] as number[], node: [] as number[], bare: [] as number[] };
    const fresh = { first: [] as number[], second: [] as number[] };
    const sandbox = await Sandbox.create(template, { ...service.sdk, timeoutMs: TIMEOUT_SECONDS * 1000 });
    const known = await service.client.connect(sandbox.sandboxId, TIMEOUT_SECONDS);
    const through: ExecTarget = { agent, at: { port: service.port }, ...known };
    const past: ExecTarget = { agent, at: { socketPath: home.trafficSocket }, ...known };
    for (let count = -WARM_UP; count < n; count++) {
      signal.throwIfAborted();
      const begun = performance.now();
      await sandbox.commands.run('echo layer');
      const sdk = performance.now() - begun;
      const edge = await timeExec(through, ECHO);
      const node = await timeExec(past, ECHO);
      const bare = await timeExec(past, TRUE);
      if (count < 0) continue;
      rows.sdk.push(sdk);
      rows.edge.push(edge);
      rows.node.push(node);
      rows.bare.push(bare);
    }
    await sandbox.kill();
    for (let count = -WARM_UP; count < n; count++) {
      signal.throwIfAborted();
      if (hot > 0) await service.untilHot(hot);
      const { sandboxID, envdAccessToken } = (await service.client.create(template, TIMEOUT_SECONDS)).body;
      const target: ExecTarget = {
        ...through,
        sandboxID,
        ...(envdAccessToken === undefined ? {} : { accessToken: envdAccessToken }),
      };
      const first = await timeExec(target, ECHO);
      const second = await timeExec(target, ECHO);
      if (count >= 0) {
        fresh.first.push(first);
        fresh.second.push(second);
      }
      await service.client.kill(sandboxID);
    }
    return {
      sdk_echo_ms: summarize(rows.sdk),
      edge_echo_ms: summarize(rows.edge),
      node_echo_ms: summarize(rows.node),
      node_true_ms: summarize(rows.bare),
      fresh_first_echo_ms: summarize(fresh.first),
      fresh_second_echo_ms: summarize(fresh.second),
    };
  } finally {
    agent.destroy();
  }
}

export function measureAgentLayers(options: CloneOptions, n: number): Promise<AgentLayers> {
  return withClones(options, { first: 0, count: 1 }, async ([clone]) => {
    const { agent } = clone!;
    const rows = { echo: [] as number[], bare: [] as number[], ping: [] as number[] };
    for (let count = -WARM_UP; count < n; count++) {
      const echo = await timeSpawn(agent, ECHO, options.signal);
      const bare = await timeSpawn(agent, TRUE, options.signal);
      const begun = performance.now();
      await agent.ping(options.signal);
      const ping = performance.now() - begun;
      if (count < 0) continue;
      rows.echo.push(echo);
      rows.bare.push(bare);
      rows.ping.push(ping);
    }
    return {
      agent_echo_ms: summarize(rows.echo),
      agent_true_ms: summarize(rows.bare),
      agent_ping_ms: summarize(rows.ping),
    };
  });
}

async function timeSpawn(agent: AgentClient, command: Command, signal: AbortSignal): Promise<number> {
  const begun = performance.now();
  const { output } = await agent.spawn({ ...command, user: 'user', stdin: false }, signal);
  let code: number | undefined;
  for await (const item of output) if (item.type === 'exit') code = item.exitCode;
  if (code !== 0) throw new Error(`${command.cmd} ended with ${code}`);
  return performance.now() - begun;
}

export function layersOf(service: ServiceLayers, agent: AgentLayers): Layers {
  const less = (whole: Summary, part: Summary): number => round(whole.p50 - part.p50);
  return {
    clock:
      'request to the end of its answer, one after the other in each round; service: one sandbox that has run commands already, and fresh hot ones; agent: a jail straight from the backend, its raw channel',
    ...service,
    ...agent,
    of_one_echo_ms: {
      sdk: less(service.sdk_echo_ms, service.edge_echo_ms),
      edge: less(service.edge_echo_ms, service.node_echo_ms),
      node: less(service.node_true_ms, agent.agent_true_ms),
      shell: less(service.node_echo_ms, service.node_true_ms),
      spawn_and_reap: less(agent.agent_true_ms, agent.agent_ping_ms),
      channel: agent.agent_ping_ms.p50,
    },
  };
}
