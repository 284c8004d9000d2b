/** The SDKs that people have installed, which every promise to an SDK is held against. One more is one more line here. */
import * as interpreter28 from '@e2b/code-interpreter';
import * as interpreter27 from 'code-interpreter-27';
import * as e2b251 from 'e2b';
import * as e2b245 from 'e2b-245';
import * as e2b250 from 'e2b-250';

export type Sdk = typeof e2b251;
export type InterpreterSdk = typeof interpreter28;

/** The newest first. Private members tell the types of generations apart; what the tests use is the same in all. */
export const GENERATIONS: readonly {
  readonly name: string;
  /** Its npm package. */
  readonly bundle: string;
  readonly sdk: Sdk;
  /** It creates and connects by `/v2/sandboxes`. */
  readonly v2: boolean;
}[] = [
  { name: 'e2b 2.51.0', bundle: 'e2b', sdk: e2b251, v2: true },
  { name: 'e2b 2.50.0', bundle: 'e2b-250', sdk: e2b250 as unknown as Sdk, v2: false },
  { name: 'e2b 2.45.0', bundle: 'e2b-245', sdk: e2b245 as unknown as Sdk, v2: false },
];

export const INTERPRETER_GENERATIONS: readonly {
  readonly name: string;
  /** Its npm package. */
  readonly bundle: string;
  readonly sdk: InterpreterSdk;
}[] = [
  { name: '@e2b/code-interpreter 2.8.0', bundle: '@e2b/code-interpreter', sdk: interpreter28 },
  {
    name: '@e2b/code-interpreter 2.7.2',
    bundle: 'code-interpreter-27',
    sdk: interpreter27 as unknown as InterpreterSdk,
  },
];
