/** One row of the matrix: a method of an SDK, what of it is proven, and the proof. */
import type { Sandbox as CodeSandbox } from '@e2b/code-interpreter';
import type { Sandbox, SandboxOpts } from 'e2b';
import type { Kind } from '../behaviours/support/kinds.ts';
import type { InterpreterSdk, Sdk } from '../helpers/generations.ts';
import type { TestServer } from '../helpers/oci-image.ts';
import type { TestService } from '../helpers/service.ts';

export interface Row<C = RowContext> {
  /** As the matrix calls it, `files.write`. One method may have several rows. */
  readonly method: string;
  /** Others that are proven beside it; the row fails unless it calls every one. */
  readonly also?: readonly string[];
  /** What is proven, in words. */
  readonly proves: string;
  /** It is refused, or not there, on these kinds of isolation (default: not at all), and the row proves just that. */
  readonly refused?: { readonly on: readonly Kind['name'][]; readonly reason: string; run(context: C): Promise<void> };
  /** Where the accelerator emulates, it takes minutes. */
  readonly slow?: true;
  run(context: C): Promise<void>;
}

/** A method that no row can prove, and why. */
export interface Exception {
  readonly method: string;
  readonly reason: string;
}

interface Common {
  readonly kind: Kind;
  readonly service: TestService;
  /** Of every call: where the service is, and the key. */
  readonly sdkOptions: {
    readonly apiUrl: string;
    readonly sandboxUrl: string;
    readonly apiKey: string;
    readonly requestTimeoutMs: number;
  };
  /** Unique among the generations, and fit for the name of a template. */
  readonly tag: string;
  /** Has `end` called when the row ends, last first. */
  atEnd(end: () => unknown): void;
}

export interface RowContext extends Common {
  readonly sdk: Sdk;
  /** One for all rows of the generation: they leave it as they found it, but for files in folders of their own. */
  readonly sandbox: Sandbox;
  /** Has nothing, asks who it is before it says so of `private/…`, and remembers what it was asked. */
  readonly registry: TestServer;
  /** A sandbox of the row's own. */
  create(options?: SandboxOpts): Promise<Sandbox>;
}

export interface CodeRowContext extends Common {
  readonly sdk: InterpreterSdk;
  readonly sandbox: CodeSandbox;
}

export type CodeRow = Row<CodeRowContext>;
