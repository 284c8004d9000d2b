/** Reading a JSON body as strictly as E2B's server does. */
import { isUtf8 } from 'node:buffer';

/** A number with a fraction or an exponent somewhere in the text (or, harmlessly, inside a string). */
const MAYBE_NON_INTEGER_LITERAL = /\d(?:\.\d|[eE])/;

/**
 * Parses a request body; undefined for an empty one. Throws SyntaxError for anything that is not JSON in UTF-8.
 *
 * E2B reads integers from integer literals only: `300.0` and `3e2` are errors where JavaScript sees 300. Such a number
 * comes out as NaN here, which no integer schema accepts.
 */
export function parseBody(body: Buffer): unknown {
  if (body.length === 0) return undefined;
  if (!isUtf8(body)) throw new SyntaxError('the body is not UTF-8');
  const text = body.toString('utf8');
  if (text.trim() === '') return undefined;
  try {
    return MAYBE_NON_INTEGER_LITERAL.test(text) ? JSON.parse(text, markNonIntegerLiterals) : JSON.parse(text);
  } catch (error) {
    // Values nested some thousands deep overflow the stack of the reviver.
    throw error instanceof SyntaxError ? error : new SyntaxError('the body is nested too deeply');
  }
}

function markNonIntegerLiterals(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  if (typeof value !== 'number' || !Number.isInteger(value)) return value;
  return /[.eE]/.test(context?.source ?? '') ? Number.NaN : value;
}
