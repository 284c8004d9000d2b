/**
 * Lives of a node that can end at each of their acts. Whatever crosses from a node to what outlives it is an act: a change
 * of a row, what its backends, machines, shells and network are told, what is asked of a guest, a change of a file. Acts are
 * seen as they pass, so that what a verb comes to do is counted with no list to keep.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import fs from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import type { Duplex } from 'node:stream';
import { FrameDecoder } from '../../src/channel/frames.ts';
import { FRAME } from '../../src/channel/protocol.ts';
import { Backends } from '../../src/isolation/backends.ts';
import type { NodeOptions } from '../../src/node/node.ts';
import { type NodeRig, type Outside, startNodeRig } from './node-rig.ts';

export interface Point {
  /** Number of the act, from 0; or its name, for the first that has it. */
  readonly step: number | string;
  readonly moment: 'before' | 'after';
}

/** Calls that change nothing outside. */
const READS: ReadonlySet<string> = new Set([
  ...[
    'get',
    'all',
    'ofTeam',
    'countOfTeam',
    'userOfVolume',
    'usedUids',
    'bases',
    'spawns',
    'inState',
    'count',
    'find',
    'page',
    'hidden',
    'close',
  ],
  ...['probe', 'openCheckpoint', 'adopt', 'census', 'attached', 'leased', 'usage', 'cpuSeconds', 'room'],
]);

class Ended extends Error {
  override readonly name = 'Ended';
}

const never = (): Promise<never> => new Promise(() => {});

export class Life {
  static readonly #current = new AsyncLocalStorage<Life>();
  /** Names of the acts since `watch`, in order. */
  readonly steps: string[] = [];
  /** When each began and was done, in order. */
  readonly passed: { readonly step: number; readonly moment: Point['moment'] }[] = [];
  /** Resolves when it has ended. */
  readonly ended: Promise<void>;
  readonly #resolveEnded: () => void;
  /** Changes of files that have begun: each is done or not done before the next life begins. */
  readonly #files = new Set<Promise<unknown>>();
  readonly #channels = new Set<Duplex>();
  readonly #onEnd: () => void;
  #watching = false;
  #over = false;
  #at: Point | undefined;
  #act: () => void = () => {};

  constructor(onEnd: () => void) {
    this.#onEnd = onEnd;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#resolveEnded = resolve;
  }

  /** The life in which the caller runs. */
  static get current(): Life | undefined {
    return Life.#current.getStore();
  }

  get over(): boolean {
    return this.#over;
  }

  /** What `act` does, and all that follows from it, is this life's. */
  run<T>(act: () => T): T {
    return Life.#current.run(this, act);
  }

  /** Begins to count. At the point, if one is given, `act` happens: by default the end of this life. */
  watch(at?: Point, act: () => void = () => this.end()): void {
    this.#watching = true;
    this.steps.length = 0;
    this.passed.length = 0;
    this.#at = at;
    this.#act = act;
  }

  /** Nothing is counted any more, and nothing happens at what is under way. */
  unwatch(): void {
    this.#watching = false;
    this.#at = undefined;
  }

  /** As SIGKILL: nothing of it reaches anything from now on. */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#onEnd();
    for (const channel of this.#channels) channel.destroy();
    this.#resolveEnded();
  }

  /** What was on its way to the disk has got there. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#files);
  }

  enter({ backends, fabric, rows }: Outside): Outside {
    return {
      backends: new Backends(backends.all.map((backend) => this.#pass(backend, backend.kind))),
      fabric: this.#pass(fabric, 'fabric'),
      rows: this.#pass(rows, 'rows'),
    };
  }

  /** A change of a file. */
  change<T>(name: string, change: () => Promise<T>): Promise<T> {
    return this.#during(
      name,
      () => {
        const changing = change();
        this.#files.add(changing);
        void changing.then(
          () => this.#files.delete(changing),
          () => this.#files.delete(changing),
        );
        return changing;
      },
      true,
    );
  }

  #pass<T extends object>(target: T, name: string): T {
    return new Proxy(target, {
      get: (object, key) => {
        const value: unknown = Reflect.get(object, key);
        if (name === 'rows' && (key === 'snapshots' || key === 'volumes'))
          return this.#pass(value as object, `${key.slice(0, -1)} rows`);
        if (typeof value !== 'function') return value;
        const call = (...args: unknown[]): unknown => this.#result(value.apply(object, args));
        if (typeof key === 'string' && READS.has(key))
          return (...args: unknown[]) => {
            if (this.#over) throw new Ended();
            return call(...args);
          };
        const waits = !name.endsWith('rows') && key !== 'unpark';
        return (...args: unknown[]) => this.#during(`${name}.${String(key)}`, () => call(...args), waits);
      },
    });
  }

  /** Machines, shells and channels are watched as what they came from. */
  #result(value: unknown): unknown {
    if (value instanceof Promise) return value.then((result: unknown) => this.#result(result));
    if (typeof value !== 'object' || value === null) return value;
    if ('openChannel' in value) return this.#pass(value, 'machine');
    if ('restore' in value) return this.#pass(value, 'shell');
    if ('pipe' in value) return this.#overhear(value as Duplex);
    return value;
  }

  /** Each request to an agent is an act. */
  #overhear(stream: Duplex): Duplex {
    this.#channels.add(stream);
    stream.on('error', () => {});
    stream.once('close', () => this.#channels.delete(stream));
    const said: string[] = [];
    const decoder = new FrameDecoder((type, _kind, _id, payload) => {
      if (type === FRAME.HELLO) said.push('hello');
      if (type === FRAME.OPEN) said.push((JSON.parse(payload.toString()) as { op: string }).op);
    });
    const write = stream.write.bind(stream) as (chunk: Buffer) => boolean;
    stream.write = (chunk: Buffer): boolean => {
      if (this.#over) return true;
      // What precedes a session that begins in the midst of another's bytes is no frame.
      if (chunk[0] !== 0) decoder.push(chunk);
      const [name] = said.splice(0);
      try {
        return name === undefined ? write(chunk) : (this.#during(`agent.${name}`, () => write(chunk)) as boolean);
      } catch (error) {
        if (error instanceof Ended) return true;
        throw error;
      }
    };
    return stream;
  }

  /** Who is over gets no answer: a call that would wait waits for ever, one that would not throws. */
  #during<T>(name: string, act: () => T, waits = false): T {
    const cut = (): T => {
      if (waits) return never() as T;
      throw new Ended();
    };
    if (this.#over) return cut();
    const step = this.#watching ? this.steps.push(name) - 1 : undefined;
    const reach = (moment: Point['moment']): void => {
      const at = this.#at;
      if (step === undefined) return;
      this.passed.push({ step, moment });
      if (moment !== at?.moment || (step !== at.step && name !== at.step)) return;
      this.#at = undefined;
      this.#act();
    };
    reach('before');
    if (this.#over) return cut();
    let result: T;
    try {
      result = act();
    } catch (error) {
      reach('after');
      throw error;
    }
    if (!(result instanceof Promise)) {
      reach('after');
      if (this.#over) throw new Ended();
      return result;
    }
    return result.finally(() => {
      reach('after');
      return this.#over ? never() : undefined;
    }) as T;
  }
}

/** A rig whose nodes live such lives, one after the other. */
export class MortalRig {
  readonly rig: NodeRig;
  readonly #lives: { now: Life; plan: (life: Life) => void };

  private constructor(rig: NodeRig, lives: { now: Life; plan: (life: Life) => void }) {
    this.rig = rig;
    this.#lives = lives;
  }

  /** `options` are read at each start. */
  static async open(options: Partial<NodeOptions>): Promise<MortalRig> {
    let rig: NodeRig | undefined;
    const lives = { now: new Life(() => {}), plan: (_: Life): void => {} };
    const enter = (outside: Outside) => {
      const life = new Life(() => rig?.node.abandon());
      lives.now = life;
      lives.plan(life);
      return { outside: life.enter(outside), run: <T>(act: () => T) => life.run(act) };
    };
    rig = await startNodeRig(options, { inMemory: true, enter });
    return new MortalRig(rig, lives);
  }

  get life(): Life {
    return this.#lives.now;
  }

  /** The node is killed, if it is not dead yet, and another starts, which `plan` may end on its way. */
  async next(plan: (life: Life) => void = () => {}): Promise<void> {
    this.life.end();
    await this.life.settled();
    this.rig.host.failNext.clear();
    this.#lives.plan = plan;
    const starting = this.rig.crash();
    const { life } = this;
    this.#lives.plan = () => {};
    const started = starting.catch((error: unknown) => {
      if (!life.over) throw error;
    });
    await Promise.race([started, life.ended]);
  }

  async end(): Promise<void> {
    await this.life.run(() => this.rig.end());
  }
}

/** Of a rig. */
const FOLDERS = ['machines', 'snapshots', 'paused', 'volumes'];

/** Changes of files pass through the life that makes them, if any. Of a life nothing is synced: the host lives on. */
function passFiles(): void {
  const real = { ...fs };
  const where = (path: unknown): string => FOLDERS.find((name) => String(path).includes(`/${name}/`)) ?? 'elsewhere';
  const passed = <Args extends unknown[], T>(name: string, change: (...args: Args) => Promise<T>) => {
    return (...args: Args): Promise<T> => {
      const life = Life.current;
      if (!life) return change(...args);
      return life.change(`files.${name} in ${where(args[0])}`, () => change(...args));
    };
  };
  Object.assign(fs, {
    mkdir: passed('mkdir', real.mkdir as (...args: unknown[]) => Promise<unknown>),
    rm: passed('rm', real.rm),
    rename: passed('rename', real.rename),
    link: passed('link', real.link),
    writeFile: passed('writeFile', real.writeFile as (...args: unknown[]) => Promise<void>),
    open: async (...args: Parameters<typeof fs.open>) => {
      const handle = await real.open(...args);
      if (Life.current) handle.sync = async () => {};
      return handle;
    },
  });
  syncBuiltinESMExports();
}

passFiles();
