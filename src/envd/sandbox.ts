/** What envd knows of the sandbox it serves. */
import type { AgentClient } from '../channel/agent.ts';

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
}
