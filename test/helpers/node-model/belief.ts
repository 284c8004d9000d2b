/** What the owners of sandboxes and snapshots may believe: the model that a node is held against. */
import { OTHER_TEAM, TEAM } from '../node-rig.ts';

export type Kind = 'microvm' | 'jail';

/** What a sandbox is. `frozen`: paused, its machine holds it. `kept`: paused, on disk, with its memory or without. */
export interface Condition {
  readonly state: 'running' | 'frozen' | 'kept';
  readonly memory: readonly string[] | undefined;
  readonly disk: readonly string[];
}

export interface Believed {
  readonly team: string;
  readonly kind: Kind;
  readonly internet: boolean;
  readonly onTimeout: 'kill' | 'pause';
  readonly pauseMemory: boolean;
  readonly autoResume: boolean;
  now: Condition;
}

export interface Taken {
  readonly team: string;
  readonly kind: Kind;
  readonly source: string;
  readonly memory: readonly string[] | undefined;
  readonly disk: readonly string[];
}

/** What the owner of each sandbox and snapshot may believe. */
export interface Model {
  readonly sandboxes: Map<string, Believed>;
  /** By the id that clients create from. */
  readonly snapshots: Map<string, Taken>;
}

export const TEAMS = [TEAM, OTHER_TEAM];
export const other = (team: string): string => (team === TEAM ? OTHER_TEAM : TEAM);

/** The `index`-th thing that the model knows. */
export function pick<T>(known: ReadonlyMap<string, T>, index: number): readonly [string, T] {
  return [...known][index % known.size]!;
}

export const running = (disk: readonly string[], memory: readonly string[] = []): Condition => ({
  state: 'running',
  disk: [...disk],
  memory: [...memory],
});

/** What it is when it is paused. */
export function pausedAs({ kind, now }: Believed, memory: boolean): Condition {
  if (kind === 'jail' && memory) return { ...now, state: 'frozen' };
  return { state: 'kept', disk: now.disk, memory: memory ? now.memory : undefined };
}

/** What it is when it runs again. */
export const resumedAs = ({ now }: Believed, memory = true): Condition => running(now.disk, memory ? now.memory : []);

/** What is left of it when its host ends, or its node in good order. undefined: nothing. */
export function keptAs(believed: Believed, how: 'lost' | 'stopped'): Condition | undefined {
  const { kind, now, onTimeout, pauseMemory } = believed;
  if (now.state === 'kept') return now;
  if (now.state === 'running' && onTimeout === 'kill') return undefined;
  const memory = how === 'stopped' && kind === 'microvm' && pauseMemory;
  return { state: 'kept', disk: now.disk, memory: memory ? now.memory : undefined };
}

export function sameCondition(one: Condition | undefined, two: Condition | undefined): boolean {
  return (
    JSON.stringify(one && [one.state, one.disk, one.memory]) ===
    JSON.stringify(two && [two.state, two.disk, two.memory])
  );
}
