/** Events of the program in the guest, judged one by one: what does not have the right shape is nothing. */

/** Fields of a result that are text, by E2B's names. */
const TEXT_FIELDS = ['text', 'html', 'markdown', 'svg', 'png', 'jpeg', 'pdf', 'latex', 'javascript'] as const;
export type TextField = (typeof TEXT_FIELDS)[number];
const VALUE_FIELDS = ['json', 'data', 'chart', 'extra'] as const;
type ValueField = (typeof VALUE_FIELDS)[number];

export type ResultFields = { readonly [name in TextField]?: string } & { readonly [name in ValueField]?: unknown };

export type RunEvent =
  | { readonly type: 'number_of_executions'; readonly executionCount: number }
  | { readonly type: 'stdout' | 'stderr'; readonly text: string }
  /** A piece of a long text field of the result that follows. */
  | { readonly type: 'part'; readonly field: TextField; readonly text: string }
  | { readonly type: 'result'; readonly main: boolean; readonly fields: ResultFields }
  | { readonly type: 'error'; readonly name: string; readonly value: string; readonly traceback: string }
  | { readonly type: 'end_of_execution' };

export type GuestEvent =
  | { readonly type: 'ready' }
  | { readonly type: 'ack'; readonly id: string }
  | { readonly type: 'refused'; readonly id: string | undefined; readonly reason: string }
  | { readonly type: 'run'; readonly id: string; readonly event: RunEvent };

export function parseGuestEvent(line: string): GuestEvent | undefined {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return undefined;
  }
  if (!isRecord(value)) return undefined;
  const { type, id } = value;
  if (type === 'ready') return { type };
  if (type === 'refused') {
    const reason = typeof value.reason === 'string' ? value.reason.slice(0, 1_000) : '';
    return { type, id: typeof id === 'string' ? id : undefined, reason };
  }
  if (typeof id !== 'string') return undefined;
  if (type === 'ack') return { type, id };
  const event = parseRunEvent(value);
  return event === undefined ? undefined : { type: 'run', id, event };
}

function parseRunEvent(value: Record<string, unknown>): RunEvent | undefined {
  const { type, text, field } = value;
  switch (type) {
    case 'number_of_executions': {
      const count = value.execution_count;
      return Number.isSafeInteger(count) ? { type, executionCount: count as number } : undefined;
    }
    case 'stdout':
    case 'stderr':
      return typeof text === 'string' ? { type, text } : undefined;
    case 'part':
      return typeof text === 'string' && isTextField(field) ? { type, field, text } : undefined;
    case 'result':
      return isRecord(value.fields)
        ? { type, main: value.main === true, fields: resultFields(value.fields) }
        : undefined;
    case 'error': {
      const { name, value: message, traceback } = value;
      if (typeof name !== 'string' || typeof message !== 'string' || typeof traceback !== 'string') return undefined;
      return { type, name, value: message, traceback };
    }
    case 'end_of_execution':
      return { type };
    default:
      return undefined;
  }
}

function resultFields(given: Record<string, unknown>): ResultFields {
  const fields: Record<string, unknown> = {};
  for (const name of TEXT_FIELDS) {
    if (typeof given[name] === 'string') fields[name] = given[name];
  }
  for (const name of VALUE_FIELDS) {
    const value = given[name];
    if (name === 'json' ? value !== undefined && value !== null : isRecord(value)) fields[name] = value;
  }
  return fields;
}

function isTextField(name: unknown): name is TextField {
  return (TEXT_FIELDS as readonly unknown[]).includes(name);
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
