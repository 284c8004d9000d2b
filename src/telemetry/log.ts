/** The injected logger: one structured line per operation. Secrets are redacted here and nowhere else. */
import pino from 'pino';

export interface Log {
  child(fields: Record<string, unknown>): Log;
  debug(fields: Record<string, unknown>, message: string): void;
  info(fields: Record<string, unknown>, message: string): void;
  warn(fields: Record<string, unknown>, message: string): void;
  error(fields: Record<string, unknown>, message: string): void;
}

const SECRET_FIELDS = [
  'apiKey',
  'token',
  'accessToken',
  'adminToken',
  'envdAccessToken',
  'envVars',
  'entropy',
  'authorization',
  'signature',
];

/** Writes JSON lines to `file`, or to stderr. Level from COPPICE_LOG (default info). */
export function createLog(options: { readonly name: string; readonly file?: string; readonly level?: string }): Log {
  const paths = SECRET_FIELDS.flatMap((field) => [field, `*.${field}`]);
  return pino(
    {
      name: options.name,
      level: options.level ?? process.env.COPPICE_LOG ?? 'info',
      base: { name: options.name, pid: process.pid },
      redact: { paths, censor: '[redacted]' },
      serializers: { error: pino.stdSerializers.errWithCause },
    },
    pino.destination({ dest: options.file ?? 2, sync: true, mkdir: true }),
  );
}

/** For tests and for code that is run without one. */
export const silentLog: Log = {
  child: () => silentLog,
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
};
