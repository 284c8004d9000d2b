/** Machines straight from a backend, without service or network, each with a session: what floors are measured on. */
import { randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentClient } from '../../src/channel/agent.ts';
import { connectAgent } from '../../src/channel/client.ts';
import type { Identity } from '../../src/channel/protocol.ts';
import type { Host } from '../../src/cli/host.ts';
import { CoppiceError } from '../../src/contract/errors.ts';
import type { Machine } from '../../src/isolation/backend.ts';
import { newEntropy, newMachineID } from '../../src/node/identifiers.ts';
import type { ReadyTemplate } from '../../src/node/nursery.ts';
import type { Home } from '../../src/store/home.ts';
import type { Log } from '../../src/telemetry/log.ts';
import { WARM_UP } from './creates.ts';
import { type Summary, summarize } from './statistics.ts';

export interface Clone {
  readonly machine: Machine;
  readonly agent: AgentClient;
}

export interface CloneOptions {
  readonly host: Host;
  readonly home: Home;
  readonly template: ReadyTemplate;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** Parked for so long before it is woken. */
const PARKED_MS = 50;

/** template_not_found when it is not built. */
export async function findTemplate(host: Host, name: string): Promise<ReadyTemplate> {
  const template = (await host.builds.ready()).find(({ aliases }) => aliases.includes(name));
  if (!template) throw new CoppiceError('template_not_found', `template '${name}' is not built`);
  return template;
}

/** `first`: number of the first one, so that groups can stand side by side. */
export async function withClones<T>(
  options: CloneOptions,
  { first, count }: { readonly first: number; readonly count: number },
  use: (clones: readonly Clone[]) => Promise<T>,
): Promise<T> {
  const { host, home, template, log, signal } = options;
  const backend = host.backends.of(template.isolation);
  const { bornItself, uidsEach } = backend.capabilities;
  const range = host.uids?.[template.isolation];
  const clones: Clone[] = [];
  const folders: string[] = [];
  try {
    for (let index = first; index < first + count; index++) {
      signal.throwIfAborted();
      const id = `bench${index}`.padEnd(21, 'x');
      const folder = join(home.machines, id);
      folders.push(folder);
      await mkdir(folder, { mode: 0o700 });
      const machine = await backend.clone(
        template.checkpoint,
        template.image,
        {
          id,
          folder,
          shape: template.shape,
          names: { hostname: id, machineID: newMachineID() },
          // From the end, whose last is the probe's.
          ...(range === undefined ? {} : { uid: range.first + (range.slots - 2 - index) * uidsEach }),
        },
        signal,
      );
      const agent = await beginSession(machine, log, signal).catch(async (error) => {
        await machine.destroy();
        throw error;
      });
      clones.push({ machine, agent });
      await agent.identity(bornItself ? whose(id, template) : identityOf(id, index, template), signal);
      if (!bornItself) await agent.identity({ clockMs: Date.now() }, signal);
    }
    return await use(clones);
  } finally {
    for (const { agent } of clones) agent.close();
    await Promise.all(clones.map(({ machine }) => machine.destroy()));
    for (const folder of folders) await rm(folder, { recursive: true, force: true });
  }
}

async function beginSession(machine: Machine, log: Log, signal: AbortSignal): Promise<AgentClient> {
  return connectAgent(await machine.openChannel(signal), { signal, log, deadlineMs: 30_000 });
}

/** As the nursery gives it, member by member. */
function identityOf(id: string, index: number, template: ReadyTemplate): Identity {
  return {
    ...whose(id, template),
    hostname: id,
    machineID: newMachineID(),
    entropy: newEntropy(),
    network: { address: `192.0.2.${3 + index}`, prefix: 32, gateway: '169.254.1.1' },
  };
}

/** What an agent is told whose machine was born itself. */
function whose(id: string, template: ReadyTemplate): Identity {
  return {
    generation: randomUUID(),
    sandboxID: id,
    templateID: template.templateID,
    env: { E2B_SANDBOX: 'true', E2B_SANDBOX_ID: id, E2B_TEMPLATE_ID: template.templateID },
  };
}

/** Wake of a parked machine to its agent's answer on the raw channel. */
export function measureWake(options: CloneOptions, n: number): Promise<Summary> {
  return withClones(options, { first: 0, count: 2 }, async (clones) => {
    const samples: number[] = [];
    for (let round = -WARM_UP; round < n; round++) {
      const { machine, agent } = clones[Math.abs(round) % clones.length]!;
      await machine.park();
      await sleep(PARKED_MS);
      const begun = performance.now();
      machine.unpark();
      await agent.ping(options.signal);
      if (round >= 0) samples.push(performance.now() - begun);
    }
    return summarize(samples);
  });
}
