/**
 * The states of a machine's row and the steps between them. A row is written before the act it announces; what is not
 * in this table does not happen.
 *
 *     preparing ──▶ hot ──▶ creating ──▶ running ──▶ killing ──▶ (row removed)
 *         └──────────┴─────────┴──────────────────────▲
 */
export type RowState = 'preparing' | 'hot' | 'creating' | 'running' | 'killing';

export const NEXT: Readonly<Record<RowState, readonly RowState[]>> = {
  preparing: ['hot', 'creating', 'killing'],
  hot: ['creating', 'killing'],
  creating: ['running', 'killing'],
  running: ['killing'],
  killing: [],
};

/** What a node does at start with a row it finds, since the process that wrote it is gone. */
export const AT_START: Readonly<Record<RowState, 'adopt' | 'sweep'>> = {
  // Nobody was promised these: regrown from the checkpoint.
  preparing: 'sweep',
  hot: 'sweep',
  // The client never had its answer.
  creating: 'sweep',
  running: 'adopt',
  killing: 'sweep',
};
