/** Takes out of a text what is nobody's business: values of variables that a caller has set, and tokens. */

/** Shorter values are words like `true` or `production`, which would take the sense out of every line. */
const LEAST = 8;
/** Values looked for; the longest ones if there are more. */
const MOST = 256;
/** Variables, and values, that are no secret and stand in ordinary output. */
const PLAIN = /^(E2B_.*|PATH|HOME|PWD|OLDPWD|SHELL|TERM|LANG|LC_.*|TZ|USER|LOGNAME|HOSTNAME|EDITOR|PAGER|TMPDIR)$/;
const PATH = /^\/[\w./+-]*$/;
const IN_PLACE = '[redacted]';

export function createRedactor(
  environments: readonly Readonly<Record<string, string>>[],
  tokens: readonly string[],
): (text: string) => string {
  const values = environments.flatMap((env) =>
    Object.entries(env).flatMap(([name, value]) => (PLAIN.test(name) ? [] : value.split(/\r?\n/))),
  );
  // The longer first: one may be part of another.
  const secrets = [...new Set([...values, ...tokens])]
    .filter((value) => value.trim().length >= LEAST && !PATH.test(value))
    .sort((a, b) => b.length - a.length)
    .slice(0, MOST);
  if (secrets.length === 0) return (text) => text;
  return (text) => secrets.reduce((left, secret) => left.replaceAll(secret, IN_PLACE), text);
}
