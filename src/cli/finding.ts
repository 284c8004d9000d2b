/** One thing that the doctor has looked at. */
export interface Finding {
  readonly check: string;
  /** `off`: Coppice runs without it, less than whole. `bad`: it does not run. */
  readonly state: 'ok' | 'off' | 'bad';
  readonly detail: string;
  readonly fix?: string;
}
