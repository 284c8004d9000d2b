/** Rounds of verbs beside each other, some of which a SIGKILL falls into; afterwards everything is what was promised. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Random } from '../../helpers/random.ts';
import type { TestService } from '../../helpers/service.ts';
import { until } from '../../helpers/until.ts';
import { type Move, Moves } from './moves.ts';
import { type Being, type Known, Promises, running } from './promises.ts';
import { type Answer, type Rest, restOf, succeeded } from './rest.ts';
import { Strikes, type Victim } from './strikes.ts';

/** One SIGKILL for so many verbs. */
const VERBS_PER_STRIKE = 12;
const MOST_AT_ONCE = 3;
/** A strike falls that long after the verbs began. */
const STRIKE_WITHIN_MS = 200;
const SETTLE_MS = 60_000;
const VICTIMS: readonly (readonly [weight: number, victim: Victim])[] = [
  [6, 'node'],
  [2, 'again'],
  [5, 'control'],
  [8, 'vmm'],
  [4, 'any vmm'],
];

/** `hit`: the VMM that it is about was killed. `cut`: nobody may have answered it. `whole`: it has to succeed. */
type Exposure = 'hit' | 'cut' | 'whole';
type Outcome = { readonly answer: Answer } | { readonly error: unknown };

export class Chaos {
  /** What happened, for who wants to know how it came to a failure. */
  readonly log: string[] = [];
  readonly tally = new Map<string, number>();
  verbs = 0;
  readonly #service: TestService;
  readonly #random: Random;
  readonly #rest: Rest;
  readonly #promises = new Promises();
  readonly #moves: Moves;
  readonly #strikes: Strikes;
  readonly #begunAt = performance.now();

  constructor(service: TestService, random: Random, options: { readonly boots: number }) {
    this.#service = service;
    this.#random = random;
    this.#rest = restOf(service);
    this.#moves = new Moves({ service, random, rest: this.#rest, promises: this.#promises, ...options });
    this.#strikes = new Strikes(service, random);
  }

  async round(most: number): Promise<void> {
    const random = this.#random;
    const moves = this.#moves.draw(Math.min(most, 1 + random.below(MOST_AT_ONCE)));
    const known = new Set(this.#promises.sandboxes.keys());
    const touched = moves.flatMap(({ sandbox }) => (sandbox ? [sandbox.id] : []));
    const strikes = random.below(VERBS_PER_STRIKE) < moves.length;
    const victim = strikes ? random.weighted(VICTIMS) : undefined;
    const targets = touched.length > 0 && random.below(3) > 0 ? touched : [...known];
    const target = targets.length > 0 ? random.pick(targets) : undefined;
    const delayMs = random.below(STRIKE_WITHIN_MS);
    this.verbs += moves.length;
    this.#note(moves.map(({ name }) => name).join(' | '));

    const acts = moves.map(({ act }) =>
      act().then(
        (answer): Outcome => ({ answer }),
        (error: unknown): Outcome => ({ error }),
      ),
    );
    let struck: string | undefined;
    if (victim) {
      await sleep(delayMs);
      struck = await this.#strikes.strike(victim, target);
      this.#note(`  SIGKILL of ${victim} ${struck ?? ''} after ${delayMs} ms`);
      this.#count(`SIGKILL of ${victim}${victim.includes('vmm') && !struck ? ', missed' : ''}`);
    }
    const outcomes = await Promise.all(acts);
    if (victim) await this.#strikes.serving();
    for (const [index, move] of moves.entries()) {
      const stranger = struck !== undefined && !known.has(struck);
      const hit = struck !== undefined && (move.sandbox?.id === struck || (stranger && move.makes === true));
      const exposure = hit ? 'hit' : victim && !victim.includes('vmm') ? 'cut' : 'whole';
      this.#settleMove(move, outcomes[index]!, exposure, struck);
    }
    if (struck !== undefined) this.#promises.struck(struck);
    const open = [...this.#promises.sandboxes.values()].filter(({ fates }) => fates.length > 1);
    await Promise.all(open.map((one) => this.#settle(one)));
    if (victim) await this.#agree();
  }

  /** What is left is looked at, then everything is ended. */
  async end(): Promise<void> {
    const { leaks, home } = this.#service;
    await this.#agree();
    for (const known of this.#promises.sandboxes.values()) await this.#settle(known);
    const list = async (path: string): Promise<readonly { sandboxID: string; snapshotID: string }[]> =>
      (await this.#rest('GET', `${path}?limit=100`)).body as { sandboxID: string; snapshotID: string }[];
    // What was asked for without an answer may come late.
    await until(
      'nothing is left',
      async () => {
        for (const { sandboxID } of await list('/v2/sandboxes')) await this.#rest('DELETE', `/sandboxes/${sandboxID}`);
        for (const { snapshotID } of await list('/snapshots')) await this.#rest('DELETE', `/templates/${snapshotID}`);
        const { details, ...counts } = await leaks();
        return details.length === 0 && Object.values(counts).every((count) => count === 0);
      },
      SETTLE_MS,
    );
    assert.deepEqual([readdirSync(home.snapshots), readdirSync(home.paused)], [[], []], 'no files are left');
  }

  #settleMove(move: Move, outcome: Outcome, exposure: Exposure, struck: string | undefined): void {
    const verb = move.name.split(' ')[0]!;
    const told = 'answer' in outcome ? `${outcome.answer.status}` : 'no answer';
    this.#count(`${verb}, ${exposure}: ${told}`);
    if ('answer' in outcome && succeeded(outcome.answer)) {
      move.answered(outcome.answer, struck);
      return;
    }
    const said = 'answer' in outcome ? JSON.stringify(outcome.answer.body) : String(outcome.error);
    this.#note(`  ${move.name}: ${told} ${said}`);
    if (exposure === 'whole') assert.fail(`${move.name}: ${told} ${said}`);
    if ('answer' in outcome) {
      const { code, message } = outcome.answer.body as { code: unknown; message: unknown };
      assert.equal(code, outcome.answer.status, 'an error in E2B’s shape');
      assert.equal(typeof message, 'string');
    }
    if (exposure === 'hit') move.refused();
    else move.unanswered();
  }

  /** Resumes it, if it is there, and looks what it is. */
  async #settle(known: Known): Promise<void> {
    const { id, fates } = known;
    const end = Date.now() + SETTLE_MS;
    let was: Being['state'] | undefined;
    for (;;) {
      const { status, body } = await this.#rest('POST', `/sandboxes/${id}/connect`, { timeout: 3_600 });
      if (status === 404) {
        assert.ok(
          fates.some(({ state }) => state === 'gone'),
          `${id} is lost`,
        );
        this.#promises.sandboxes.delete(id);
        this.#count('settled: gone');
        return;
      }
      if (status < 300) {
        was ??= status === 201 ? 'paused' : 'running';
        const content = await this.#moves.contentOf(known).catch(() => undefined);
        if (content) {
          const fits = fates.some(
            (fate) => fate.state === was && isDeepStrictEqual({ ...(fate as Being).content }, content),
          );
          assert.ok(fits, `${id} was ${was} with ${JSON.stringify(content)} and may be ${JSON.stringify(fates)}`);
          this.#count(`settled: ${was}`);
          known.fates = [running(content)];
          known.writing = undefined;
          return;
        }
      }
      assert.ok(Date.now() < end, `${id} neither answers nor is gone: ${status} ${JSON.stringify(body)}`);
      await sleep(50);
    }
  }

  /** What is listed is what was promised, and what came to no answer. */
  async #agree(): Promise<void> {
    const { sandboxes, snapshots, expected } = this.#promises;
    const listed = (await this.#rest('GET', '/v2/sandboxes?limit=100')).body as readonly {
      readonly sandboxID: string;
      readonly state: string;
      readonly metadata: Record<string, string>;
    }[];
    const states = new Map(listed.map(({ sandboxID, state }) => [sandboxID, state]));
    for (const known of sandboxes.values())
      assert.equal(states.get(known.id), this.#promises.being(known).state, `what ${known.id} is listed as`);
    for (const { sandboxID, metadata } of listed) {
      if (sandboxes.has(sandboxID)) continue;
      const waits = expected.find(({ mark, most }) => mark === metadata.mark && most > 0);
      assert.ok(waits, `${sandboxID} with ${JSON.stringify(metadata)} was not asked for, or is there once too often`);
      waits.most--;
      this.#count('found without an answer: sandbox');
      const orphan: Known = { id: sandboxID, mark: waits.mark, fates: [], writing: undefined };
      const content = await this.#moves.contentOf(orphan).catch(() => undefined);
      // One whose client went away is ended by itself.
      if (content) assert.deepEqual(content, waits.content, `what is in ${sandboxID}`);
      const { status } = await this.#rest('DELETE', `/sandboxes/${sandboxID}`);
      assert.ok(status === 204 || (status === 404 && !content), `the end of ${sandboxID}: ${status}`);
    }
    const found = (await this.#rest('GET', '/snapshots?limit=100')).body as readonly { readonly snapshotID: string }[];
    const ids = new Set(found.map(({ snapshotID }) => snapshotID));
    for (const id of ids) {
      const snapshot = snapshots.get(id);
      assert.ok(snapshot, `${id} was not asked for`);
      if (snapshot.certain !== 'maybe') continue;
      snapshot.certain = 'yes';
      this.#count('found without an answer: snapshot');
    }
    for (const { id, certain } of snapshots.values()) assert.ok(certain !== 'yes' || ids.has(id), `${id} is lost`);
  }

  #note(line: string): void {
    this.log.push(`${Math.round(performance.now() - this.#begunAt)} ms ${line}`);
  }

  #count(what: string): void {
    this.tally.set(what, (this.tally.get(what) ?? 0) + 1);
  }
}
