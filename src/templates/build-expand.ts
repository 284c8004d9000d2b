/**
 * Variables in what build steps say, as a shell within double quotes reads them, without one: `$NAME`, `${NAME}`, and
 * `${NAME-word}`, `${NAME:-word}`, `${NAME+word}`, `${NAME:+word}` with a plain word. Commands are never run, backslashes
 * are themselves, and what is none of these stays as it is.
 */

/** `lookup` gives undefined for what is not set, which expands to nothing. */
export function expandVariables(text: string, lookup: (name: string) => string | undefined): string {
  return text.replace(VARIABLE, (_whole, plain?: string, braced?: string, operator?: string, word = '') => {
    const value = lookup(plain ?? braced!);
    if (operator === undefined) return value ?? '';
    const given = value !== undefined && (value !== '' || !operator.startsWith(':'));
    if (operator.endsWith('+')) return given ? word : '';
    return given ? value! : word;
  });
}

const VARIABLE = /\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])([^${}]*))?\})/g;
