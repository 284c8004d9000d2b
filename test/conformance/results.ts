/** What one run of the suite proved, as the matrix is written from it. */

export type Proof =
  | { readonly how: 'holds' | 'refused'; readonly proves: string; readonly file: string }
  | { readonly how: 'none'; readonly proves: string };

export interface Column {
  readonly name: string;
  /** By method, in the order of the package; of several rows one proof each. */
  readonly methods: Map<string, Proof[]>;
}

export class Results {
  readonly sdks: Column[] = [];
  readonly interpreters: Column[] = [];
  /** By call of envd, by verb of the REST contract: tests that passed and made it. */
  readonly envd = new Map<string, string>();
  /** By who asked, then by verb. */
  readonly rest = new Map<string, ReadonlyMap<string, ReadonlySet<string>>>();
  /** Tests that are not as on other kinds, and how. */
  readonly differs = new Map<string, string>();
  /** Tests there are, and those that passed. */
  planned = 0;
  passed = 0;

  get whole(): boolean {
    return this.planned === this.passed;
  }
}

export function prove(column: Column, methods: readonly string[], proof: Proof): void {
  for (const method of methods) column.methods.set(method, [...(column.methods.get(method) ?? []), proof]);
}
