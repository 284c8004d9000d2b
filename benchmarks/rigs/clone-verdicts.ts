/** What became of looking for one hazard in what clones said. */
import type { Draw } from './clone-draw.ts';

/** The same value in several sandboxes. */
export interface Collision {
  readonly what: string;
  readonly value: string;
  readonly sandboxes: readonly string[];
}

export interface Hazard {
  readonly hazard: string;
  readonly how: string;
  readonly result: 'clear' | 'found' | 'not checked';
  /** Values that were compared, or facts that were looked at. */
  readonly checked: number;
  readonly collisions: readonly Collision[];
  /** What else is not as it must be, or why it was not checked. */
  readonly notes: readonly string[];
}

/** None of the values of these names is another's. */
export function distinct(hazard: string, draws: readonly Draw[], names: readonly string[]): Hazard {
  const collisions: Collision[] = [];
  const there: string[] = [];
  let checked = 0;
  for (const what of names) {
    const holders = new Map<string, string[]>();
    for (const { sandboxID, origin, values } of draws) {
      const value = values[what];
      if (value === undefined) continue;
      checked++;
      holders.set(value, [...(holders.get(value) ?? []), `${sandboxID} (${origin})`]);
    }
    if (holders.size > 0) there.push(what);
    for (const [value, sandboxes] of holders) if (sandboxes.length > 1) collisions.push({ what, value, sandboxes });
  }
  return {
    hazard,
    how: `distinct in all: ${there.join(', ')}`,
    result: checked === 0 ? 'not checked' : collisions.length > 0 ? 'found' : 'clear',
    checked,
    collisions,
    notes: [],
  };
}

/** Whatever is at fault has been found already. */
export function judged(hazard: string, how: string, checked: number, faults: readonly string[]): Hazard {
  const result = checked === 0 ? 'not checked' : faults.length > 0 ? 'found' : 'clear';
  return { hazard, how, result, checked, collisions: [], notes: faults };
}

export function unchecked(hazard: string, why: string): Hazard {
  return { hazard, how: '-', result: 'not checked', checked: 0, collisions: [], notes: [why] };
}

/** As bad as the worst of its parts. */
export function merged(hazard: string, parts: readonly Hazard[]): Hazard {
  const found = parts.some(({ result }) => result === 'found');
  const missing = parts.some(({ result }) => result === 'not checked');
  return {
    hazard,
    how: [...new Set(parts.map(({ how }) => how))].join('; '),
    result: found ? 'found' : missing ? 'not checked' : 'clear',
    checked: parts.reduce((sum, { checked }) => sum + checked, 0),
    collisions: parts.flatMap(({ collisions }) => collisions),
    notes: parts.flatMap(({ notes }) => notes),
  };
}
