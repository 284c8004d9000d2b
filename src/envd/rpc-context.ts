/** What one RPC knows beyond its message: the sandbox it was sent to, and as whom. */
import { createContextKey, type HandlerContext } from '@connectrpc/connect';
import { basicUser } from './auth.ts';
import type { ProcessHub } from './process-hub.ts';
import type { EnvdSandbox } from './sandbox.ts';
import type { Watchers } from './watchers.ts';

/** The parts of one envd that its RPCs use. */
export interface EnvdParts {
  readonly sandbox: EnvdSandbox;
  readonly processes: ProcessHub;
  readonly watchers: Watchers;
}

export const PARTS = createContextKey<EnvdParts | undefined>(undefined, { description: 'the envd that was called' });

/** The called envd's parts and the acting user: who Basic names, else the default. */
export function callOf(context: HandlerContext): EnvdParts & { readonly user: string } {
  const parts = context.values.get(PARTS);
  if (parts === undefined) throw new Error('an RPC was routed without its envd');
  return { ...parts, user: basicUser(context.requestHeader.get('Authorization')) ?? parts.sandbox.defaultUser };
}
