/** What envd knows of the sandbox it serves. */
import type { AgentClient } from '../channel/agent.ts';
import type { ProcessNotes } from './process-notes.ts';

export interface EnvdSandbox {
  readonly sandboxID: string;
  readonly templateID: string;
  /** Absent: the sandbox is not secured and every route is open. */
  readonly accessToken?: string;
  /** The agent of the present session. Called for each operation, so that a new session is picked up by itself. */
  agent(): Promise<AgentClient> | AgentClient;
  /** Environment that every process of the sandbox gets, as the agent applies it. Answered by GET /envs. */
  readonly env: Readonly<Record<string, string>>;
  /** Who a request acts as when it names nobody. */
  readonly defaultUser: string;
  /** Where what its processes do is told. Absent: nowhere. */
  readonly notes?: ProcessNotes | undefined;
  /** Where processes start that name no folder; absent: the home of their user. */
  readonly defaultWorkdir?: string;
  /** Runs what is asked of /bin/bash, which E2B's clients ask for every command: the root filesystem has none. */
  readonly insteadOfBash?: string;
}
