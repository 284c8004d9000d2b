/** Sandboxes made in waves that fit the host's memory, each asked for what must be its own, and ended. */

import { Agent } from 'node:http';
import { availableParallelism } from 'node:os';
import type { Answer } from './client.ts';
import { type Draw, type DrawOptions, draw } from './clone-draw.ts';
import { TRUE, timeExec } from './exec.ts';
import { memAvailableMiB } from './memory.ts';
import type { RigService } from './service.ts';

export interface Made {
  readonly sandboxID: string;
  readonly token: string | undefined;
  readonly path: Answer['path'];
}

export interface WaveOptions {
  readonly origin: DrawOptions['origin'];
  readonly count: number;
  readonly python: boolean;
  readonly javascript: boolean;
  /** Makes so many, all that it can. */
  readonly make: (count: number) => Promise<readonly Made[]>;
  /** They stand, and have not been asked yet; `last`: no more are made. */
  readonly onStanding?: (made: readonly Made[], last: boolean) => Promise<void>;
  readonly signal: AbortSignal;
  readonly onProgress: (done: number) => void;
}

export interface Waves {
  readonly draws: readonly Draw[];
  readonly made: readonly Made[];
  readonly foreignTokens: { readonly offered: number; readonly accepted: readonly string[] };
}

/** What a clone comes to hold while it is asked, generously: Python, numpy and Node start in it. */
const CLONE_MIB = 256;
/** Part of what memory is there that a wave may take. */
const SHARE = 0.6;
const LARGEST = 50;
/** Of each wave, so many are offered the token of another. */
const OFFERS = 2;

export async function drawWaves(service: RigService, options: WaveOptions): Promise<Waves> {
  const { origin, count, python, javascript, make, onStanding, signal, onProgress } = options;
  const draws: Draw[] = [];
  const all: Made[] = [];
  const accepted: string[] = [];
  let offered = 0;
  for (let number = 1; all.length < count; number++) {
    const wave = `${origin} ${number}`;
    const room = Math.max(1, Math.floor((memAvailableMiB() * SHARE) / CLONE_MIB));
    const made = await make(Math.min(count - all.length, room, LARGEST));
    all.push(...made);
    try {
      await onStanding?.(made, all.length >= count);
      const left = [...made];
      const worker = async (): Promise<void> => {
        for (let one = left.shift(); one; one = left.shift()) {
          signal.throwIfAborted();
          draws.push(await draw(service, one.sandboxID, { origin, wave, token: one.token, python, javascript }));
          onProgress(draws.length);
        }
      };
      const ends = await Promise.allSettled(Array.from({ length: availableParallelism() }, worker));
      for (const end of ends) if (end.status === 'rejected') throw end.reason;
      for (const [index, one] of made.slice(0, OFFERS).entries()) {
        const other = made[index + 1];
        if (other?.token === undefined) continue;
        offered++;
        if (await accepts(service, one.sandboxID, other.token))
          accepted.push(`${one.sandboxID} took ${other.sandboxID}'s`);
      }
    } finally {
      await Promise.all(made.map(({ sandboxID }) => service.client.kill(sandboxID)));
    }
  }
  return { draws, made: all, foreignTokens: { offered, accepted } };
}

async function accepts({ port }: RigService, sandboxID: string, accessToken: string): Promise<boolean> {
  const agent = new Agent({ keepAlive: false });
  try {
    await timeExec({ agent, at: { port }, sandboxID, accessToken }, TRUE);
    return true;
  } catch (error) {
    if (/answered 401/.test((error as Error).message)) return false;
    throw error;
  } finally {
    agent.destroy();
  }
}
