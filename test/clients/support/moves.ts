/**
 * The verbs of an owner, each with what it promises once it is answered, and what may have become of things when it was
 * not. Which one comes next is drawn at random from what is possible.
 */
import assert from 'node:assert/strict';
import { Sandbox } from 'e2b';
import { PATIENT } from '../../behaviours/support/asks.ts';
import type { Random } from '../../helpers/random.ts';
import type { TestService } from '../../helpers/service.ts';
import {
  type Being,
  type Content,
  GONE,
  type Known,
  NOTHING,
  type Promises,
  paused,
  running,
  type Snapshot,
} from './promises.ts';
import { type Answer, type Rest, succeeded } from './rest.ts';

export interface Move {
  readonly name: string;
  readonly sandbox?: Known | undefined;
  /** Of a sandbox or an entry that is not known yet: a VMM of nobody may be it. */
  readonly makes?: true;
  act(): Promise<Answer>;
  /** `struck`: the sandbox whose VMM was killed meanwhile. */
  answered(answer: Answer, struck: string | undefined): void;
  /** It failed since the VMM that it was about was killed, and its caller was told so. */
  refused(): void;
  unanswered(): void;
}

export interface MovesOptions {
  readonly service: TestService;
  readonly rest: Rest;
  readonly promises: Promises;
  readonly random: Random;
  /** Sandboxes without memory that may be made: each costs a boot when it goes on. */
  readonly boots: number;
}

const TEMPLATE = 'base';
const MOST_SANDBOXES = 6;
const MOST_SNAPSHOTS = 5;
const LIFE = { timeout: 3_600 } as const;

export class Moves {
  readonly #options: MovesOptions;
  #boots: number;
  #count = 0;
  /** Of the moves drawn last: how many sandboxes they may make, and which they are on. */
  #making = 0;
  #touched: ReadonlySet<string> = new Set();

  constructor(options: MovesOptions) {
    this.#options = options;
    this.#boots = options.boots;
  }

  /** Some that can be made beside each other: each on a sandbox and a snapshot of its own. */
  draw(count: number): Move[] {
    const { promises, random } = this.#options;
    const sandboxes = [...promises.sandboxes.values()];
    const snapshots = [...promises.snapshots.values()].filter(({ certain }) => certain === 'yes');
    this.#making = 0;
    const moves = Array.from({ length: count }, () => {
      const move = random.weighted([...this.#makers(snapshots), ...this.#changes(sandboxes, snapshots)])();
      if (move.sandbox) sandboxes.splice(sandboxes.indexOf(move.sandbox), 1);
      return move;
    });
    this.#touched = new Set(moves.flatMap(({ sandbox }) => (sandbox ? [sandbox.id] : [])));
    return moves;
  }

  #room(): number {
    return MOST_SANDBOXES - this.#options.promises.sandboxes.size - this.#making;
  }

  #makers(snapshots: Snapshot[]): Choice[] {
    const { promises, random } = this.#options;
    const list: Choice = [8, () => this.#list()];
    const choices: Choice[] = [list];
    if (this.#room() > 0) choices.push([promises.sandboxes.size < 2 ? 60 : 10, () => this.#create(TEMPLATE, NOTHING)]);
    if (snapshots.length === 0) return choices;
    const taken = (): Snapshot => snapshots.splice(random.below(snapshots.length), 1)[0]!;
    if (this.#room() > 0)
      choices.push([
        8,
        () => {
          const { id, content } = taken();
          return this.#create(id, content);
        },
      ]);
    choices.push([promises.snapshots.size < MOST_SNAPSHOTS ? 3 : 12, () => this.#deleteSnapshot(taken())]);
    return choices;
  }

  #changes(sandboxes: readonly Known[], snapshots: Snapshot[]): Choice[] {
    const { promises, random } = this.#options;
    const inState = (state: Being['state']): readonly Known[] =>
      sandboxes.filter((known) => promises.being(known).state === state);
    const [awake, asleep] = [inState('running'), inState('paused')];
    const on = (weight: number, some: readonly Known[], move: (known: Known) => Move): Choice[] =>
      some.length > 0 ? [[weight, () => move(random.pick(some))]] : [];
    const own = (known: Known): readonly Snapshot[] => snapshots.filter(({ sourceID }) => sourceID === known.id);
    const taken = (one: Snapshot): Snapshot => snapshots.splice(snapshots.indexOf(one), 1)[0]!;
    const withSnapshots = sandboxes.filter((known) => own(known).length > 0);
    // Of one without, a snapshot would boot.
    const withMemory = sandboxes.filter((known) => promises.being(known).memory);
    return [
      ...on(18, awake, (known) => this.#write(known)),
      ...on(10, awake, (known) => this.#look(known)),
      ...on(16, awake, (known) => this.#pause(known)),
      ...on(18, asleep, (known) => this.#connect(known)),
      ...on(2, awake, (known) => this.#connect(known)),
      ...on(promises.snapshots.size < MOST_SNAPSHOTS ? 10 : 0, withMemory, (known) => this.#snapshot(known)),
      ...on(this.#room() > 0 ? 7 : 0, awake, (known) => this.#fork(known)),
      ...on(8, withSnapshots, (known) => this.#rollBack(known, taken(random.pick(own(known))))),
      ...on(sandboxes.length > 3 ? 12 : 2, sandboxes, (known) => this.#kill(known)),
    ];
  }

  #list(): Move {
    const { rest, promises } = this.#options;
    const known = [...promises.sandboxes.keys()];
    return {
      name: 'list',
      act: () => rest('GET', '/v2/sandboxes?limit=100'),
      answered: ({ body }, struck) => {
        const listed = new Set((body as readonly { sandboxID: string }[]).map(({ sandboxID }) => sandboxID));
        // Of those that are being changed beside it nothing is known at this moment.
        const still = known.filter((id) => !this.#touched.has(id) && id !== struck);
        for (const id of still) assert.ok(listed.has(id), `${id} is not listed`);
      },
      refused: () => {},
      unanswered: () => {},
    };
  }

  #create(templateID: string, content: Content): Move {
    const { rest, promises } = this.#options;
    const mark = `m${this.#count++}`;
    this.#making++;
    return {
      name: `create ${mark} from ${templateID}`,
      makes: true,
      act: () => rest('POST', '/v2/sandboxes', { templateID, ...LIFE, metadata: { mark } }),
      answered: ({ body }) => promises.add((body as { sandboxID: string }).sandboxID, mark, content),
      refused: () => {},
      unanswered: () => promises.expected.push({ mark, content, most: 1 }),
    };
  }

  #fork(known: Known): Move {
    const { rest, promises, random } = this.#options;
    const { id, mark } = known;
    const { content } = promises.being(known);
    const count = 1 + random.below(Math.min(2, this.#room()));
    this.#making += count;
    return {
      name: `fork ${id} to ${count}`,
      sandbox: known,
      makes: true,
      act: async () => {
        const answer = await rest('POST', `/sandboxes/${id}/fork`, { count, ...LIFE });
        const failed = succeeded(answer) ? forksIn(answer).find(({ error }) => error) : undefined;
        if (!failed) return answer;
        // The others are there.
        for (const { sandbox } of forksIn(answer)) if (sandbox) promises.add(sandbox.sandboxID, mark, content);
        return { status: failed.error!.code, body: failed.error };
      },
      answered: (answer) => {
        const forks = forksIn(answer);
        assert.equal(forks.length, count);
        for (const { sandbox } of forks) promises.add(sandbox!.sandboxID, mark, content);
      },
      refused: () => {},
      unanswered: () => promises.expected.push({ mark, content, most: count }),
    };
  }

  #write(known: Known): Move {
    const { service, promises } = this.#options;
    const { id } = known;
    const value = `w${this.#count++}`;
    const before = promises.being(known).content;
    const after: Content = { file: value, word: value };
    return {
      name: `write ${value} in ${id}`,
      sandbox: known,
      act: async () => {
        const sandbox = await Sandbox.connect(id, { ...service.sdk, timeoutMs: LIFE.timeout * 1_000 });
        const put = `: ${value}-write; echo ${value} > next && mv next file && echo ${value} > /dev/shm/word`;
        await sandbox.commands.run(put, PATIENT);
        return { status: 200, body: undefined };
      },
      answered: () => {
        known.fates = [running(after)];
      },
      refused: () => {},
      unanswered: () => {
        known.writing = `${value}-write`;
        known.fates = [before, { ...after, word: before.word }, after].map(running);
      },
    };
  }

  #look(known: Known): Move {
    const { promises } = this.#options;
    const { content } = promises.being(known);
    return {
      name: `look at ${known.id}`,
      sandbox: known,
      act: async () => {
        const body = await this.contentOf(known);
        return { status: 200, body };
      },
      answered: ({ body }) => assert.deepEqual(body, content, `what is in ${known.id}`),
      refused: () => {},
      unanswered: () => {},
    };
  }

  /** What is there now, when nothing that was begun is at it any more. */
  async contentOf({ id, writing }: Known): Promise<Content> {
    const sandbox = await Sandbox.connect(id, { ...this.#options.service.sdk, timeoutMs: LIFE.timeout * 1_000 });
    // The brackets keep the pattern from matching the command line that it is in.
    const wait = writing ? `while pgrep -f '[${writing[0]}]${writing.slice(1)}' >/dev/null; do sleep 0.1; done; ` : '';
    const line = `${wait}cat file 2>/dev/null; echo /; cat /dev/shm/word 2>/dev/null`;
    const { stdout } = await sandbox.commands.run(`{ ${line}; } || true`, PATIENT);
    const [file = '', word = ''] = stdout.split('/').map((text) => text.trim());
    return { file, word };
  }

  #pause(known: Known): Move {
    const { rest, promises, random } = this.#options;
    const before = promises.being(known);
    const memory = this.#boots === 0 || random.below(12) > 0;
    if (!memory) this.#boots--;
    const after = paused(before.content, memory);
    return {
      name: `pause ${known.id} ${memory ? 'with' : 'without'} memory`,
      sandbox: known,
      act: () => rest('POST', `/sandboxes/${known.id}/pause`, { memory }),
      answered: () => {
        known.fates = [after];
      },
      refused: () => {},
      unanswered: () => {
        known.fates = [before, after];
      },
    };
  }

  #connect(known: Known): Move {
    const { rest, promises, random } = this.#options;
    const before = promises.being(known);
    const after = running(before.content);
    const verb = before.state === 'paused' && random.below(3) === 0 ? 'resume' : 'connect';
    return {
      name: `${verb} ${known.id}`,
      sandbox: known,
      act: () => rest('POST', `/sandboxes/${known.id}/${verb}`, LIFE),
      answered: ({ status }) => {
        assert.equal(status, before.state === 'paused' ? 201 : 200, `${verb} tells what ${known.id} was`);
        known.fates = [after];
      },
      refused: () => {},
      unanswered: () => {
        known.fates = before.state === 'paused' ? [before, after] : [before];
      },
    };
  }

  #snapshot(known: Known): Move {
    const { rest, promises } = this.#options;
    const name = `s${this.#count++}`;
    const { content } = promises.being(known);
    const add = (certain: Snapshot['certain']): void => {
      const id = `${name}:default`;
      promises.snapshots.set(id, { id, sourceID: known.id, content, certain });
    };
    return {
      name: `snapshot ${name} of ${known.id}`,
      sandbox: known,
      act: () => rest('POST', `/sandboxes/${known.id}/snapshots`, { name }),
      answered: ({ body }) => {
        add('yes');
        assert.equal((body as { snapshotID: string }).snapshotID, `${name}:default`);
      },
      refused: () => {},
      unanswered: () => add('maybe'),
    };
  }

  #deleteSnapshot(snapshot: Snapshot): Move {
    const { rest, promises } = this.#options;
    return {
      name: `delete snapshot ${snapshot.id}`,
      act: () => rest('DELETE', `/templates/${snapshot.id}`),
      answered: () => void promises.snapshots.delete(snapshot.id),
      refused: () => {},
      unanswered: () => {
        snapshot.certain = 'doomed';
      },
    };
  }

  #rollBack(known: Known, { id: snapshotID, content }: Snapshot): Move {
    const { rest, promises } = this.#options;
    const before = promises.being(known);
    return {
      name: `roll ${known.id} back to ${snapshotID}`,
      sandbox: known,
      act: () => rest('POST', `/sandboxes/${known.id}/rollback`, { snapshotID }),
      answered: () => {
        known.fates = [running(content)];
      },
      refused: () => {
        known.fates = [before, paused(content)];
      },
      unanswered: () => {
        known.fates = [before, paused(content), running(content)];
      },
    };
  }

  #kill(known: Known): Move {
    const { rest, promises } = this.#options;
    const before = promises.being(known);
    return {
      name: `kill ${known.id}`,
      sandbox: known,
      act: () => rest('DELETE', `/sandboxes/${known.id}`),
      answered: () => void promises.sandboxes.delete(known.id),
      // Its end came first.
      refused: () => void promises.sandboxes.delete(known.id),
      unanswered: () => {
        known.fates = [before, GONE];
      },
    };
  }
}

type Choice = readonly [weight: number, move: () => Move];

interface Forked {
  readonly sandbox?: { readonly sandboxID: string };
  readonly error?: { readonly code: number; readonly message: string };
}

function forksIn({ body }: Answer): readonly Forked[] {
  return body as readonly Forked[];
}
