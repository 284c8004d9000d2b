/** The kinds of isolation that every behaviour runs on. One more kind is one more line here. */
import type { Isolation } from '../../../src/contract/node-api.ts';

export interface Kind {
  readonly name: Isolation;
  /** Template of Debian alone. */
  readonly base: string;
  /** Template with the code interpreter. */
  readonly code: string;
  /** Its sandboxes have a kernel of their own. */
  readonly ownKernel: boolean;
}

export const KINDS: readonly Kind[] = [
  { name: 'microvm', base: 'base', code: 'code-interpreter-v1', ownKernel: true },
  { name: 'jail', base: 'base-jail', code: 'code-interpreter-v1-jail', ownKernel: false },
];
