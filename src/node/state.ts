/**
 * The states of a machine's row and the steps between them. A row is written before the act it announces; what is not
 * in this table does not happen.
 *
 *     preparing ──▶ hot ──▶ creating ──▶ running ──▶ pausing ──▶ paused ──▶ resuming ──▶ running
 *         │          │         │            │  ◀────────┘   ▲       │  ◀───────┘ │
 *         └──────────┴─────────┴────────────┴───────────────┴───────┴────────────┴──▶ killing ──▶ (row removed)
 */
export type RowState = 'preparing' | 'hot' | 'creating' | 'running' | 'pausing' | 'paused' | 'resuming' | 'killing';

export const NEXT: Readonly<Record<RowState, readonly RowState[]>> = {
  preparing: ['hot', 'creating', 'killing'],
  hot: ['creating', 'killing'],
  creating: ['running', 'killing'],
  running: ['pausing', 'killing'],
  // Back when it could not be parked, or could not be woken.
  pausing: ['paused', 'running', 'killing'],
  paused: ['resuming', 'killing'],
  resuming: ['running', 'paused', 'killing'],
  killing: [],
};

/**
 * What a node does at start with a row it finds, since the process that wrote it is gone. `park`: adopted as a paused
 * sandbox, which it becomes if it was not one yet; nothing of it runs meanwhile.
 */
export const AT_START: Readonly<Record<RowState, 'adopt' | 'park' | 'sweep'>> = {
  // Nobody was promised these: regrown from the checkpoint.
  preparing: 'sweep',
  hot: 'sweep',
  // The client never had its answer.
  creating: 'sweep',
  running: 'adopt',
  // Asked for, and perhaps done: finished.
  pausing: 'park',
  paused: 'park',
  // The client never had its answer and asks again. A paused sandbox was promised to stay; one that runs has a deadline.
  resuming: 'park',
  killing: 'sweep',
};
