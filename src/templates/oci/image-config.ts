/** What an image says of itself: for which machine it is, how its programs are to be run, what its layers unpack to. */
import { z } from 'zod';
import { CoppiceError } from '../../contract/errors.ts';
import { parseDigest } from './digest.ts';
import { type Platform, parseJson } from './manifest.ts';

export interface ImageConfig {
  /** As the image has it: a name or a number, perhaps with `:group`; empty for root. */
  readonly user: string;
  readonly env: Readonly<Record<string, string>>;
  /** Empty when the image names none. */
  readonly workingDir: string;
  readonly cmd: readonly string[];
  readonly entrypoint: readonly string[];
}

export interface ParsedConfig {
  readonly config: ImageConfig;
  /** Digest of each layer as it is unpacked, lowest first. */
  readonly diffIDs: readonly string[];
}

const TEXT = z.string().max(65_536);
const LIST = z.array(TEXT).max(4_096);
const schema = z.object({
  os: z.string().max(64),
  architecture: z.string().max(64),
  config: z
    .object({
      User: z.string().max(256).nullish(),
      Env: LIST.nullish(),
      WorkingDir: z.string().max(4_096).nullish(),
      Cmd: LIST.nullish(),
      Entrypoint: LIST.nullish(),
    })
    .nullish(),
  rootfs: z.object({ type: z.literal('layers'), diff_ids: z.array(z.string().max(200)).max(1_024).nullish() }),
});

/** Malformed, or not of `platform`: bad_request. */
export function parseImageConfig(bytes: Uint8Array, platform: Platform): ParsedConfig {
  const parsed = schema.safeParse(parseJson(bytes, 'the configuration of the image'));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw bad(`malformed at '${issue?.path.join('.')}': ${issue?.message}`);
  }
  const { os, architecture, config, rootfs } = parsed.data;
  if (os !== platform.os || architecture !== platform.architecture)
    throw bad(`for ${os}/${architecture}, and sandboxes are ${platform.os}/${platform.architecture}`);
  return {
    config: {
      user: config?.User ?? '',
      env: parseEnv(config?.Env ?? []),
      workingDir: config?.WorkingDir ?? '',
      cmd: config?.Cmd ?? [],
      entrypoint: config?.Entrypoint ?? [],
    },
    diffIDs: (rootfs.diff_ids ?? []).map(parseDigest),
  };
}

/** `NAME=value` lines. What has no name is nothing that a process could be given, and is left out. */
function parseEnv(lines: readonly string[]): Record<string, string> {
  const pairs = lines.flatMap((line): [string, string][] => {
    const at = line.indexOf('=');
    return at > 0 && !line.includes('\0') ? [[line.slice(0, at), line.slice(at + 1)]] : [];
  });
  return Object.fromEntries(pairs);
}

function bad(what: string): CoppiceError {
  return new CoppiceError('bad_request', `the configuration of the image is ${what}`);
}
