/** Row: many jails at once. */
import { Sandbox } from 'e2b';
import { leaksOfHome } from '../../src/cli/leaks.ts';
import { createHerd } from './herd.ts';
import { readMemory } from './memory.ts';
import { type RigServiceOptions, withService } from './service.ts';
import { round, type Summary, summarize } from './statistics.ts';

export interface ManyJails {
  readonly clock: string;
  readonly jails: number;
  readonly created: { readonly seconds: number; readonly per_second: number; readonly each_ms: Summary };
  /** Sandboxes that the service counts as running, once all were made. */
  readonly alive: number;
  /** Of a sample, spread evenly: those whose first command answered rightly. */
  readonly exec: { readonly asked: number; readonly answered: number; readonly first_echo_ms: Summary };
  readonly mem_available_per_jail_mib: number;
  readonly killed: { readonly seconds: number; readonly per_second: number; readonly each_ms: Summary };
  /** What the leak check found: while they stood, when they had been killed, and when the service had stopped. */
  readonly leaks: { readonly standing: number; readonly after_kill: number; readonly after_stop: number };
}

const CLIENTS = 4;
const SAMPLE = 20;
const TIMEOUT_SECONDS = 3_600;

export async function measureMany(
  options: Omit<RigServiceOptions, 'pool' | 'connections'> & {
    readonly template: string;
    readonly jails: number;
    readonly onProgress: (stage: string, fraction: number) => void;
  },
): Promise<ManyJails> {
  const { template, jails, signal, home, log, onProgress } = options;
  const served = await withService({ ...options, pool: 0, connections: CLIENTS }, async ({ client, node, sdk }) => {
    let stage = 'making them';
    const herd = createHerd(client, {
      template,
      timeoutSeconds: TIMEOUT_SECONDS,
      workers: CLIENTS,
      signal,
      onProgress: (fraction) => onProgress(stage, fraction),
    });
    await herd.make(1);
    await herd.end();
    const before = await readMemory(signal);
    const made = await timed(() => herd.make(jails));
    const standing = await readMemory(signal);
    const alive = (await node.status()).sandboxes;
    const leaksStanding = (await node.leaks()).details.length;
    const asked = Math.min(SAMPLE, jails);
    const sample = Array.from({ length: asked }, (_, index) => herd.ids[Math.floor((index * jails) / asked)]!);
    const echoes: number[] = [];
    let answered = 0;
    for (const [index, id] of sample.entries()) {
      signal.throwIfAborted();
      const sandbox = await Sandbox.connect(id, { ...sdk, timeoutMs: TIMEOUT_SECONDS * 1000 });
      const begun = performance.now();
      const { stdout } = await sandbox.commands.run(`echo ${index}`);
      echoes.push(performance.now() - begun);
      if (stdout === `${index}\n`) answered++;
    }
    stage = 'ending them';
    const killed = await timed(() => herd.end());
    return {
      clock: `${CLIENTS} clients side by side, pool 0: POST sent to 201 received; the first command of a sample, which starts the jail's agent`,
      jails,
      created: {
        seconds: round(made.seconds),
        per_second: round(jails / made.seconds),
        each_ms: summarize(made.value),
      },
      alive,
      exec: { asked: sample.length, answered, first_echo_ms: summarize(echoes) },
      mem_available_per_jail_mib: round((before.available - standing.available) / jails),
      killed: {
        seconds: round(killed.seconds),
        per_second: round(jails / killed.seconds),
        each_ms: summarize(killed.value),
      },
      leaks: { standing: leaksStanding, after_kill: (await node.leaks()).details.length },
    };
  });
  return { ...served, leaks: { ...served.leaks, after_stop: (await leaksOfHome(home, log)).details.length } };
}

async function timed<T>(work: () => Promise<T>): Promise<{ readonly value: T; readonly seconds: number }> {
  const begun = performance.now();
  const value = await work();
  return { value, seconds: (performance.now() - begun) / 1000 };
}
