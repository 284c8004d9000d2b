/** What the node and the process that serves volumes say to each other. */

export type ToServer =
  /** To an `ask`: each volume with a descriptor of its root in the node's process. null: nothing. */
  { readonly number: number; readonly exports: readonly { readonly volumeID: string; readonly fd: number }[] | null };

export type FromServer =
  | { readonly kind: 'ready' }
  | { readonly kind: 'log'; readonly message: string }
  /** What may the machine with this address have? */
  | { readonly kind: 'ask'; readonly number: number; readonly address: string }
  /** What was answered is not needed any more. */
  | { readonly kind: 'done'; readonly number: number };
