/**
 * From E2B's create body to the node's action. Members that the SDKs always send are accepted with the value that means
 * "nothing special"; any other value of a member that is not honoured is refused by its name.
 */
import { posix } from 'node:path';
import type { NewSandbox, NewSandboxNetwork } from '../contract/e2b/requests.ts';
import { TIMEOUTS } from '../contract/e2b/requests.ts';
import { CoppiceError } from '../contract/errors.ts';
import {
  type CreateSandboxRequest,
  ISOLATION_KEY,
  ISOLATIONS,
  type Isolation,
  MASK_PORT,
  type NetworkUpdate,
  type NetworkWish,
} from '../contract/node-api.ts';
import type { VolumeMount } from '../contract/volume-api.ts';

const MOST_MOUNTS = 16;
/** What a sandbox could not be without; below some of them is room. */
const TAKEN = /^\/(?:$|(?:dev|proc|run|sys)(?:\/|$)|(?:bin|boot|etc|home|lib|lib64|opt|root|sbin|tmp|usr|var)$)/;
const EVERYTHING = '0.0.0.0/0';
const HOST = /^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?::[1-9][0-9]{0,4})?$/;

export interface Generation {
  readonly defaultTimeout: number;
  /** v2 sandboxes are always secured; v1 asks for it. */
  readonly alwaysSecure: boolean;
}

export const V1: Generation = Object.freeze({ defaultTimeout: TIMEOUTS.createV1, alwaysSecure: false });
export const V2: Generation = Object.freeze({ defaultTimeout: TIMEOUTS.createV2, alwaysSecure: true });

export function toCreateRequest(body: NewSandbox, teamID: string, generation: Generation): CreateSandboxRequest {
  refuse(body.mcp !== undefined && body.mcp !== null, 'mcp');
  refuse(isFilled(body.iam?.tokens), 'iam');
  const isolation = isolationOf(body.metadata ?? {});
  const secure = generation.alwaysSecure || body.secure === true;
  return {
    teamID,
    template: body.templateID,
    ...(isolation === undefined ? {} : { isolation }),
    timeoutSeconds: positiveTimeout(body.timeout ?? generation.defaultTimeout),
    secure,
    ...toLifecycle(body),
    metadata: body.metadata ?? {},
    envVars: body.envVars ?? {},
    network: {
      ...toNetworkUpdate(body.network ?? {}, body.allow_internet_access ?? undefined),
      ...toTraffic(body.network ?? {}, secure),
    },
    ...toVolumeMounts(body.volumeMounts ?? []),
  };
}

function isolationOf(metadata: Readonly<Record<string, string>>): Isolation | undefined {
  const wish = Object.hasOwn(metadata, ISOLATION_KEY) ? metadata[ISOLATION_KEY] : undefined;
  if (wish === undefined) return undefined;
  const found = ISOLATIONS.find((one) => one === wish);
  if (found) return found;
  throw new CoppiceError('bad_request', `metadata.${ISOLATION_KEY} must be one of: ${ISOLATIONS.join(', ')}`);
}

/** At paths of its own: absolute, normal, none below another, none over what every sandbox has there. */
function toVolumeMounts(mounts: readonly VolumeMount[]): Pick<CreateSandboxRequest, 'volumeMounts'> {
  const bad = (why: string) => new CoppiceError('bad_request', `volumeMounts: ${why}`);
  if (mounts.length > MOST_MOUNTS) throw bad(`at most ${MOST_MOUNTS} volumes can be mounted`);
  for (const { path } of mounts) {
    const quoted = JSON.stringify(path);
    if (
      !path.startsWith('/') ||
      (path.length > 1 && path.endsWith('/')) ||
      path !== posix.normalize(path) ||
      path.includes('\0')
    )
      throw bad(`the path ${quoted} is not absolute and normal`);
    if (TAKEN.test(path)) throw bad(`the path ${quoted} is the system's`);
    if (mounts.some((other) => other.path !== path && other.path.startsWith(`${path}/`)))
      throw bad(`the path ${quoted} has another one below it`);
    if (mounts.filter((other) => other.path === path).length > 1) throw bad(`the path ${quoted} is given twice`);
  }
  return mounts.length === 0 ? {} : { volumeMounts: mounts.map(({ name, path }) => ({ name, path })) };
}

/** E2B's rules of what goes together. What the template's isolation cannot do, the node refuses by name. */
function toLifecycle(body: NewSandbox): Pick<CreateSandboxRequest, 'onTimeout' | 'pauseMemory' | 'autoResume'> {
  const pauses = body.autoPause === true;
  const diskAlone = body.autoPauseMemory === false;
  const resumes = body.autoResume?.enabled === true;
  if (diskAlone && !pauses)
    throw new CoppiceError('bad_request', 'autoPauseMemory=false only applies when autoPause is true');
  if (resumes && !pauses) throw new CoppiceError('bad_request', 'autoResume only applies when autoPause is true');
  if (diskAlone && resumes)
    throw new CoppiceError(
      'bad_request',
      'autoPauseMemory=false cannot be combined with autoResume: what has kept its disk alone is resumed explicitly',
    );
  return {
    ...(pauses ? { onTimeout: 'pause' } : {}),
    ...(diskAlone ? { pauseMemory: false } : {}),
    ...(resumes ? { autoResume: true } : {}),
  };
}

/** A deny list of everything and nothing else is how E2B spells `allow_internet_access: false`; deny wins over true. */
export function toNetworkUpdate(network: NewSandboxNetwork, allowInternetAccess: boolean | undefined): NetworkUpdate {
  const denyOut = network.denyOut ?? [];
  const deniesEverything = denyOut.length === 1 && denyOut[0] === EVERYTHING;
  refuse(isFilled(network.allowOut), 'network.allowOut');
  refuse(denyOut.length > 0 && !deniesEverything, 'network.denyOut');
  refuse(network.egressProxy !== undefined && network.egressProxy !== null, 'network.egressProxy');
  refuse(isFilled(network.rules), 'network.rules');
  refuse(isFilled(network.httpsPorts), 'network.httpsPorts');
  if (deniesEverything) return { allowInternetAccess: false };
  return allowInternetAccess === undefined ? {} : { allowInternetAccess };
}

/** Who may reach its ports, and what they see of it. */
function toTraffic(
  { allowPublicTraffic, maskRequestHost }: NewSandboxNetwork,
  secure: boolean,
): Pick<NetworkWish, 'publicTraffic' | 'maskRequestHost'> {
  if (allowPublicTraffic === false && !secure)
    throw new CoppiceError(
      'bad_request',
      "You cannot create a sandbox without public access unless you enable secure envd access via 'secure' flag.",
    );
  if (maskRequestHost && !isHost(maskRequestHost))
    throw new CoppiceError(
      'bad_request',
      `network.maskRequestHost must be a host name, with a port or without; '\${PORT}' stands for the sandbox's port`,
    );
  return {
    ...(allowPublicTraffic === false ? { publicTraffic: false } : {}),
    ...(maskRequestHost ? { maskRequestHost } : {}),
  };
}

/** It becomes the value of a header field of HTTP: nothing but names, dots and one port. */
function isHost(text: string): boolean {
  const host = text.replace(MASK_PORT, '65535');
  return host.length <= 255 && HOST.test(host) && Number(/:(\d+)$/.exec(host)?.[1] ?? 1) <= 65_535;
}

/** Seconds. E2B's two texts for a life that is too short or too long. */
export function positiveTimeout(seconds: number): number {
  if (seconds <= 0) throw new CoppiceError('bad_request', 'Timeout must be greater than 0');
  return cappedTimeout(seconds);
}

export function cappedTimeout(seconds: number): number {
  if (seconds > TIMEOUTS.max)
    throw new CoppiceError('bad_request', `Timeout cannot be greater than ${TIMEOUTS.max / 3600} hours`);
  return seconds;
}

export function refuse(condition: boolean, field: string): void {
  if (!condition) return;
  throw new CoppiceError('unsupported_policy', `${field} is not supported by this server with the given value`, {
    details: { field },
  });
}

function isFilled(value: object | string | null | undefined): boolean {
  if (value === undefined || value === null) return false;
  return typeof value === 'string' ? value !== '' : Object.keys(value).length > 0;
}
