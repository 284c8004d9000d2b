/** What the code interpreter knows of the sandbox it serves. */
import type { AgentClient } from '../../channel/agent.ts';

export interface InterpreterSandbox {
  readonly sandboxID: string;
  /** Present: POST /execute demands it in X-Access-Token, and the other routes refuse a wrong one. */
  readonly accessToken?: string;
  /** Present: every request must carry it in E2B-Traffic-Access-Token. */
  readonly trafficAccessToken?: string;
  /** The agent of the present session. Called for each operation, so that a new session is picked up by itself. */
  agent(): Promise<AgentClient> | AgentClient;
  /** Environment that every process of the sandbox gets; runs see it in every context. */
  readonly env: Readonly<Record<string, string>>;
  /** Languages whose program is in the sandbox, by their full names: `python`, `javascript`. */
  readonly languages: readonly string[];
}

/** The user that contexts run as, and where they begin. */
export const DEFAULT_USER = 'user';
export const DEFAULT_CWD = '/home/user';
