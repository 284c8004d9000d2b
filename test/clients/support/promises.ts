/** What the owner of sandboxes and snapshots was promised: of what came to no answer, everything that it may have become. */

/** What the test put there. `word` is in memory alone. */
export interface Content {
  readonly file: string;
  readonly word: string;
}

/** Of a sandbox that is there. */
export interface Being {
  readonly state: 'running' | 'paused';
  readonly content: Content;
  /** False: it is paused without its memory, and boots when it goes on. */
  readonly memory: boolean;
}

export type Fate = Being | { readonly state: 'gone' };

export interface Known {
  readonly id: string;
  /** In its metadata, and so in that of its forks. */
  readonly mark: string;
  /** More than one after a verb without an answer, until somebody has looked. */
  fates: readonly Fate[];
  /** Marks the command of a write without an answer, which may still be at it. */
  writing: string | undefined;
}

export interface Snapshot {
  readonly id: string;
  readonly sourceID: string;
  readonly content: Content;
  /** `maybe`: it was asked for without an answer. `doomed`: so was its end. */
  certain: 'yes' | 'maybe' | 'doomed';
}

/** Sandboxes that were asked for without an answer: nobody learnt their names. */
export interface Expected {
  readonly mark: string;
  readonly content: Content;
  most: number;
}

export const NOTHING: Content = { file: '', word: '' };
export const GONE: Fate = { state: 'gone' };

export function running(content: Content): Being {
  return { state: 'running', content, memory: true };
}

export function paused(content: Content, memory = true): Being {
  return { state: 'paused', content: memory ? content : { ...content, word: '' }, memory };
}

export class Promises {
  readonly sandboxes = new Map<string, Known>();
  readonly snapshots = new Map<string, Snapshot>();
  readonly expected: Expected[] = [];

  add(id: string, mark: string, content: Content): void {
    this.sandboxes.set(id, { id, mark, fates: [running(content)], writing: undefined });
  }

  /** What it is; throws while that is not settled. */
  being({ id, fates }: Known): Being {
    const [only, ...others] = fates;
    if (!only || only.state === 'gone' || others.length > 0) throw new Error(`what became of ${id} is not settled`);
    return only;
  }

  /** The VMM of this one was killed: what runs is gone, what is on disk is not. */
  struck(id: string): void {
    const known = this.sandboxes.get(id);
    if (known?.fates.some(({ state }) => state === 'running')) known.fates = [...known.fates, GONE];
  }
}
