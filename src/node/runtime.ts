/** What a template says of its sandboxes' processes, beyond their environment. */
import type { GuestCommand } from '../templates/build-plan.ts';
import { GUEST_USER } from '../templates/guest-root.ts';

export interface Runtime {
  /** Who processes and files are of when nobody is named. */
  readonly user: string;
  /** Where processes start that name no folder; absent: the home of their user. */
  readonly workdir?: string;
  /** Absent: the root filesystem has none. */
  readonly shell?: '/bin/bash' | '/bin/sh';
  readonly sudo: boolean;
  readonly start?: StartProgram;
}

/** Runs from the golden checkpoint on; from the birth of each machine where that holds no memory. */
export interface StartProgram {
  readonly command?: GuestCommand;
  /** Run again and again until it exits with 0; absent: nobody says how to ask. */
  readonly ready?: GuestCommand;
  readonly everyMs: number;
  readonly deadlineMs: number;
}

/** Of the templates that come with Coppice. */
export const DEFAULT_RUNTIME: Runtime = { user: GUEST_USER, shell: '/bin/bash', sudo: true };
