/**
 * The one registry of errors. Every failure that can reach a client has a code here; the code decides the HTTP status
 * and carries one suggestion that says what to do next. A code without a full entry does not compile.
 */

/** What every code must say. `suggestion` is printed by the CLI and logged; it never goes into E2B's `message`. */
interface ErrorEntry {
  /** HTTP status at the REST edge, as E2B answers it. */
  readonly status: number;
  /** E2B's machine-readable `error_code`, where E2B has one. */
  readonly e2b?: string;
  readonly suggestion: string;
}

export const ERRORS = {
  bad_request: { status: 400, suggestion: 'Correct the request; the message names the field.' },
  unauthorized: { status: 401, suggestion: 'Send a valid key in X-API-Key. `coppice key create` makes one.' },
  forbidden: { status: 403, suggestion: 'Use a key of the team that owns this.' },
  sandbox_not_found: { status: 404, suggestion: 'List what runs with `coppice sandbox list`.' },
  template_not_found: { status: 404, suggestion: 'List templates with `coppice template list`.' },
  team_not_found: { status: 404, suggestion: 'List teams with `coppice team list`.' },
  key_not_found: {
    status: 404,
    suggestion: 'List keys with `coppice key list`, access tokens with `coppice token list`.',
  },
  volume_not_found: { status: 404, suggestion: 'GET /volumes lists those of the team.' },
  path_not_found: { status: 404, suggestion: 'List what the volume has with GET /volumecontent/<id>/dir?path=/.' },
  secret_not_found: { status: 404, suggestion: 'GET /secrets lists those of the team.' },
  webhook_not_found: { status: 404, suggestion: 'List webhooks with `coppice webhook list`.' },
  event_not_found: { status: 404, suggestion: 'GET /events/sandboxes lists what happened lately.' },
  node_not_found: { status: 404, suggestion: 'GET /nodes lists what there is.' },
  route_not_found: { status: 404, suggestion: 'Check the path against docs/e2b-matrix.md.' },
  method_not_allowed: { status: 405, suggestion: 'Check the method against docs/e2b-matrix.md.' },
  conflict: { status: 409, suggestion: 'What it is about is in another state; read it and try again.' },
  idempotency_in_progress: {
    status: 409,
    e2b: 'idempotency_in_progress',
    suggestion: 'Wait for the first request with this key to end, then send it again.',
  },
  idempotency_request_mismatch: {
    status: 409,
    e2b: 'idempotency_request_mismatch',
    suggestion: 'Use a new Idempotency-Key for a different request.',
  },
  payload_too_large: { status: 413, suggestion: 'Send a smaller body; files go through the sandbox URL.' },
  unsupported_policy: {
    status: 400,
    suggestion: 'Leave the named field out, or run Coppice where the policy can be enforced (see `coppice doctor`).',
  },
  capacity: {
    status: 503,
    e2b: 'sandbox_capacity_unavailable',
    suggestion: 'Kill sandboxes that are no longer needed, or raise the memory budget.',
  },
  node_draining: {
    status: 503,
    e2b: 'sandbox_no_compatible_node',
    suggestion: 'Its operator has set the node aside; POST /nodes/<id> with the status ready takes it back.',
  },
  volume_full: { status: 507, suggestion: 'Remove files of the volume, or set COPPICE_VOLUME_MB for new ones.' },
  too_many_builds: { status: 429, suggestion: 'Wait for builds of the team to end, or delete them.' },
  start_failed: { status: 500, e2b: 'sandbox_create_failed', suggestion: 'Read the console tail in the node log.' },
  guest_unresponsive: {
    status: 503,
    suggestion: 'The guest did not answer in time; kill the sandbox and start another.',
  },
  not_implemented: { status: 501, suggestion: 'This verb is not there yet; docs/e2b-matrix.md lists what is.' },
  unavailable: { status: 503, suggestion: 'The node is starting or stopping; try again in a moment.' },
  host_unfit: { status: 500, suggestion: 'Run `coppice doctor`; it names the fix.' },
  checkpoint_corrupt: { status: 500, suggestion: 'Rebuild the template: `coppice template build <name> --force`.' },
  aborted: { status: 499, suggestion: 'The caller gave up or the time ran out.' },
  internal: {
    status: 500,
    e2b: 'internal_server_error',
    suggestion: 'This is a bug; the log line with this id says more.',
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

/** The only error type that crosses rooms. Anything else that reaches an edge is answered as `internal`. */
export class CoppiceError extends Error {
  override readonly name = 'CoppiceError';
  readonly code: ErrorCode;
  /** Machine-readable facts for the log; never secrets. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; details?: Record<string, unknown> } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = Object.freeze({ ...options.details });
  }

  get status(): number {
    return ERRORS[this.code].status;
  }

  get suggestion(): string {
    return ERRORS[this.code].suggestion;
  }
}

/** E2B's error body: every status, always JSON; `code` is an integer equal to the HTTP status. */
export interface E2BErrorBody {
  readonly code: number;
  readonly message: string;
  readonly error_code?: string;
}

export function toE2BError(error: unknown): E2BErrorBody {
  if (!(error instanceof CoppiceError))
    return { code: 500, message: 'internal error', error_code: ERRORS.internal.e2b };
  const entry: ErrorEntry = ERRORS[error.code];
  return { code: entry.status, message: error.message, ...(entry.e2b ? { error_code: entry.e2b } : {}) };
}

export function isCoppiceError(error: unknown, code?: ErrorCode): error is CoppiceError {
  return error instanceof CoppiceError && (code === undefined || error.code === code);
}
