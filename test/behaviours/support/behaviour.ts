/** One row of the table: what a user of a sandbox may rely on, whichever kind of isolation it has. */
import type { Sandbox as CodeSandbox } from '@e2b/code-interpreter';
import type { Sandbox, SandboxOpts } from 'e2b';
import type { TestService } from '../../helpers/service.ts';
import type { Kind } from './kinds.ts';
import type { World } from './world.ts';

export interface Behaviour {
  /** Unique; what holds, in words. */
  readonly name: string;
  /** `every kind`, or what some kinds do not support; those it does not name support it. */
  readonly on: 'every kind' | { readonly [kind in Kind['name']]?: Unsupported };
  /** It loads the host, or measures it: nothing runs beside it. */
  readonly alone?: true;
  /** It kills a process of the service: it has one to itself. */
  readonly ownService?: true;
  run(context: BehaviourContext): Promise<void>;
}

/** A kind that does not do this says so to its user: the row then proves the refusal, never nothing. */
export interface Unsupported {
  readonly reason: string;
  refused(context: BehaviourContext): Promise<void>;
}

/** What one run of a row has. Its sandboxes are killed when the row ends. */
export interface BehaviourContext {
  readonly kind: Kind;
  readonly service: TestService;
  /** The only internet there is. */
  readonly world: World;
  /** A new sandbox of the kind's plain template. */
  sandbox(options?: SandboxOpts): Promise<Sandbox>;
  /** A new sandbox of the kind's template with the code interpreter. */
  codeSandbox(options?: SandboxOpts): Promise<CodeSandbox>;
  /** Has `end` called when the row ends, last first. */
  atEnd(end: () => unknown): void;
}
