/**
 * Forks: a running sandbox is captured once, and new ones are made of that. The capture is a snapshot that nobody else sees,
 * gone when every fork has come to something; a fork is a sandbox like any other, of the template of its source.
 */
import { CoppiceError, isCoppiceError } from '../contract/errors.ts';
import type { CreateSandboxRequest, ForkOutcome, ForkResult, ForkWish } from '../contract/node-api.ts';
import type { Log } from '../telemetry/log.ts';
import type { Captures } from './captures.ts';
import type { Creates } from './creates.ts';
import type { Fleet } from './fleet.ts';
import type { KnownTemplates } from './known-templates.ts';
import { notFound } from './ownership.ts';
import { ReceiptClock } from './receipt.ts';
import type { Owner, Rows } from './rows.ts';
import type { SnapshotRow } from './snapshot-rows.ts';
import type { Snapshots } from './snapshots.ts';
import type { Turns } from './turns.ts';

export interface ForksOptions {
  readonly rows: Rows;
  readonly fleet: Fleet;
  readonly templates: KnownTemplates;
  readonly captures: Captures;
  readonly snapshots: Snapshots;
  readonly creates: Creates;
  readonly turns: Turns;
  readonly log: Log;
}

export class Forks {
  readonly #options: ForksOptions;

  constructor(options: ForksOptions) {
    this.#options = options;
  }

  async fork(id: string, wish: ForkWish, signal?: AbortSignal): Promise<ForkResult> {
    const { rows, snapshots, templates, log } = this.#options;
    const clock = new ReceiptClock('fork');
    const captured = await this.#capture(id, clock, signal);
    clock.stage('capture');
    try {
      const held = await snapshots.holdRow(captured);
      try {
        const row = rows.get(id);
        if (!row?.owner) throw notFound(id);
        const { templateID, buildID, env, aliases } = templates.of(row) ?? held.template;
        const source = { ...held.template, templateID, buildID, env, aliases };
        const request = requestOf(row.owner, templateID, wish);
        const forks = await Promise.all(
          Array.from({ length: wish.count }, () =>
            this.#options.creates.createOf(source, row.parentID, request, signal).then(
              ({ sandbox }): ForkOutcome => ({ sandbox }),
              (error: unknown): ForkOutcome => ({ error: told(error, log) }),
            ),
          ),
        );
        clock.stage('create');
        // Nobody learns their names.
        if (signal?.aborted) {
          await Promise.all(
            forks.map(
              (fork) => 'sandbox' in fork && this.#options.fleet.bury(fork.sandbox.sandboxID, 'its fork was given up'),
            ),
          );
          throw new CoppiceError('aborted', 'the fork was given up');
        }
        return { forks, receipt: clock.finish() };
      } finally {
        held.release();
      }
    } finally {
      await snapshots.drop(captured);
    }
  }

  async #capture(id: string, clock: ReceiptClock, signal?: AbortSignal): Promise<SnapshotRow> {
    const { rows, fleet, captures, snapshots, turns } = this.#options;
    return turns.take(id, async () => {
      const row = rows.get(id);
      const member = fleet.sandbox(id);
      if (row?.state === 'paused') throw new CoppiceError('conflict', `Sandbox "${id}" is paused`);
      if (!row?.owner || !member) throw notFound(id);
      const backend = captures.backendOf(row);
      if (!backend.capabilities.memoryCheckpoint)
        throw new CoppiceError('not_implemented', `fork is not implemented for ${backend.kind} sandboxes`);
      return snapshots.take(row, {
        member,
        machine: member.machine,
        hidden: true,
        onCapture: (ms) => clock.paused(ms),
        ...(signal ? { signal } : {}),
      });
    });
  }
}

/** What the source was asked to be, but for its time. */
function requestOf(owner: Owner, template: string, { timeoutSeconds }: ForkWish): CreateSandboxRequest {
  return {
    teamID: owner.teamID,
    template,
    timeoutSeconds,
    secure: owner.secure,
    onTimeout: owner.onTimeout,
    pauseMemory: owner.pauseMemory,
    autoResume: owner.autoResume,
    metadata: owner.metadata,
    envVars: owner.env,
    network: {
      ...(owner.allowInternet === undefined ? {} : { allowInternetAccess: owner.allowInternet }),
      publicTraffic: owner.publicTraffic,
      ...(owner.maskRequestHost === undefined ? {} : { maskRequestHost: owner.maskRequestHost }),
    },
    ...(owner.volumes.length === 0 ? {} : { volumeMounts: owner.volumes }),
  };
}

function told(error: unknown, log: Log): { code: CoppiceError['code']; message: string } {
  log.warn({ error }, 'a fork came to nothing');
  if (isCoppiceError(error)) return { code: error.code, message: error.message };
  return { code: 'internal', message: 'internal error' };
}
