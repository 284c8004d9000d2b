/** Schema faults in E2B's words: 400, `validation error: ...`. */
import type { z } from 'zod';
import { CoppiceError } from '../contract/errors.ts';

const ISSUES_MAX = 3;
const ISSUE_CHARS_MAX = 200;

/** Returns the parsed value or throws `bad_request`. An absent body is said to be absent rather than of a wrong type. */
export function validate<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  if (value === undefined) throw validationError('the request body is required');
  throw validationError(result.error.issues.slice(0, ISSUES_MAX).map(describe).join('; '));
}

export function validationError(message: string): CoppiceError {
  return new CoppiceError('bad_request', `validation error: ${message}`);
}

function describe(issue: z.core.$ZodIssue): string {
  const path = issue.path.map(String).join('.');
  const text = path === '' ? issue.message : `${path}: ${issue.message}`;
  return text.length > ISSUE_CHARS_MAX ? `${text.slice(0, ISSUE_CHARS_MAX)}...` : text;
}
