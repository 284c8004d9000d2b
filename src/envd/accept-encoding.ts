/** Which encoding a download may have (RFC 9110, 12.5.3): identity unless the client prefers gzip. */

/** undefined: the client refuses both. */
export function chooseEncoding(header: string | undefined): 'identity' | 'gzip' | undefined {
  const weights = parse(header ?? '');
  const any = weights.get('*');
  const gzip = weights.get('gzip') ?? any ?? 0;
  const identity = weights.get('identity');
  // Unnamed, identity stays acceptable but is the last choice, unless `*;q=0` rules it out.
  const identityRefused = identity === 0 || (identity === undefined && any === 0);
  if (gzip > 0 && (identityRefused || gzip > (identity ?? 0))) return 'gzip';
  return identityRefused ? undefined : 'identity';
}

function parse(header: string): ReadonlyMap<string, number> {
  const weights = new Map<string, number>();
  for (const item of header.split(',').slice(0, 64)) {
    const [name = '', ...parameters] = item.split(';');
    const coding = name.trim().toLowerCase();
    if (coding === '') continue;
    const q = parameters.map((parameter) => /^\s*q\s*=\s*([0-9.]+)\s*$/i.exec(parameter)?.[1]).find(Boolean);
    const weight = q === undefined ? 1 : Number(q);
    weights.set(coding, Number.isFinite(weight) ? Math.min(Math.max(weight, 0), 1) : 0);
  }
  return weights;
}
